// `banyan convert`: names, earlier results and progress bars around the conversion itself (convert/image_converter.h).
#pragma once

#include <cstdint>
#include <stop_token>
#include <string>

#include "cli/command.h"
#include "cli/progress.h"
#include "common/result.h"
#include "convert/image_converter.h"
#include "image-format/oci.h"

namespace banyan::cli {

struct ConvertCommandOptions {
  std::string source;
  std::string destination;  // empty: the source's repository
  std::string tag;          // not empty: push as an image of its own under this tag
  std::string platform;     // "os/architecture[/variant]"; empty: linux and this machine's
  uint32_t jobs = 0;        // 0: one a hardware thread
  std::string key_file;     // not empty: sign the artifact with this private key (PEM)
  convert::ConvertSettings settings;
};

// Linux on this machine's architecture.
image_format::Platform HostPlatform();

// Blocks. kCancelled when stopped.
Result<convert::ConvertReport> ConvertImage(const ConvertCommandOptions& options, const GlobalOptions& globals,
                                            const std::string& spool_directory, Progress& progress,
                                            std::stop_token stop);

}  // namespace banyan::cli
