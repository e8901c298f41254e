#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <thread>

#include <fmt/format.h>

#include "cli/doctor.h"
#include "common/file_io.h"
#include "image-format/erofs_writer.h"
#include "image-format/merge.h"
#include "lazyfs/image_mount.h"

namespace banyan::cli {

namespace {

constexpr std::string_view kContents = "banyan";
constexpr size_t kBlock = 4096;

// The metadata of an image with one file, "probe", at the start of one device of one block.
Result<std::string> TinyMetadata() {
  image_format::LayerIndex index;
  index.device_blocks = 1;
  index.entries.resize(2);
  index.entries[0].mode = 0755;
  image_format::Entry& probe = index.entries[1];
  probe.name = "probe";
  probe.kind = image_format::EntryKind::kRegular;
  probe.mode = 0644;
  probe.size = kContents.size();
  const image_format::LayerIndex* const layers[] = {&index};
  BANYAN_ASSIGN(const auto tree, image_format::MergeLayers(layers));
  const image_format::ErofsDevice devices[] = {{"probe", 1}};
  BANYAN_ASSIGN(const auto metadata, image_format::WriteErofs(tree, devices));
  return std::string(reinterpret_cast<const char*>(metadata.bytes.data()), metadata.bytes.size());
}

// Mounts the files in `directory` and reads the probe, in a mount namespace that ends with the calling thread.
Status TryForm(const std::string& directory, lazyfs::Form form) {
  if (::unshare(CLONE_NEWNS) != 0) return FailErrno("a mount namespace", errno);
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return FailErrno("make / private", errno);
  lazyfs::MountSpec spec;
  spec.metadata_path = directory + "/metadata";
  spec.devices.push_back({directory + "/device", kBlock, nullptr});
  spec.target = directory + "/mount";
  spec.form = form;
  spec.adopt = false;
  BANYAN_ASSIGN(auto mounted, lazyfs::MountImage(spec));
  const auto probe = ReadFile(spec.target + "/probe");
  BANYAN_TRY(lazyfs::UmountImage(mounted));
  if (!probe) return Fail(probe.error());
  if (*probe != kContents) return Fail(Code::kDataLoss, "the mounted file shows other bytes");
  return {};
}

Status TryFormApart(const std::string& directory, lazyfs::Form form) {
  Status status;
  std::thread([&] { status = TryForm(directory, form); }).join();
  return status;
}

Status WriteProbe(const std::string& directory) {
  BANYAN_ASSIGN(const std::string metadata, TinyMetadata());
  std::string device(kContents);
  device.resize(kBlock);
  BANYAN_TRY(WriteFileDurably(directory + "/metadata", metadata));
  BANYAN_TRY(WriteFileDurably(directory + "/device", device));
  return MakeDirectories(directory + "/mount");
}

// A directory on the disk in question, whatever $TMPDIR says.
Result<std::string> MakeProbeDirectory(const std::string& parent) {
  std::string path = parent + "/.banyan-doctor-XXXXXX";
  if (::mkdtemp(path.data()) == nullptr) return FailErrno("make a directory in " + parent, errno);
  return path;
}

void RemoveProbeDirectory(const std::string& directory) {
  for (const char* name : {"/metadata", "/device"}) ::unlink((directory + name).c_str());
  ::rmdir((directory + "/mount").c_str());
  ::rmdir(directory.c_str());
}

Check CheckErofs(const std::string& parent) {
  Check check{"EROFS", Verdict::kWarn, "", ""};
  if (::geteuid() != 0) {
    check.found = "not tried: mounting needs root";
    check.remedy = "run banyan doctor as root";
    return check;
  }
  const auto directory = MakeProbeDirectory(parent);
  const Status written = directory ? WriteProbe(*directory) : Status(Fail(directory.error()));
  if (!written) {
    check.found = "not tried: " + written.error().message;
    if (directory) RemoveProbeDirectory(*directory);
    return check;
  }
  const Status file = TryFormApart(*directory, lazyfs::Form::kFile);
  const Status loop = TryFormApart(*directory, lazyfs::Form::kLoop);
  RemoveProbeDirectory(*directory);
  if (file || loop) {
    check.verdict = Verdict::kOk;
    check.found = file ? "images are mounted from files"
                       : fmt::format("images are mounted from loop devices (from files: {})", file.error().message);
    return check;
  }
  check.found = fmt::format("from files: {}; from loop devices: {}", file.error().message, loop.error().message);
  check.remedy =
      "modprobe erofs loop; a kernel of at least 5.16 with CONFIG_EROFS_FS; data root not on overlayfs. Without it "
      "images are shown through FUSE alone, which is slower";
  return check;
}

Check CheckFuse() {
  const int fd = ::open("/dev/fuse", O_RDWR | O_CLOEXEC);
  if (fd >= 0) {
    ::close(fd);
    return {"FUSE", Verdict::kOk, "/dev/fuse opens", ""};
  }
  const int reason = errno;
  return {"FUSE", Verdict::kFail, fmt::format("/dev/fuse: {}", std::strerror(reason)),
          reason == ENOENT ? "modprobe fuse; in a container, pass the device /dev/fuse"
                           : "run as root; in a container, allow the device /dev/fuse (c 10:229)"};
}

}  // namespace

std::vector<Check> CheckKernel(const std::string& directory) {
  utsname name{};
  ::uname(&name);
  return {{"kernel", Verdict::kOk, fmt::format("{} {}", name.sysname, name.release), ""},
          CheckFuse(),
          CheckErofs(directory)};
}

}  // namespace banyan::cli
