#include "store/stored_layer.h"

#include <utility>

#include <fmt/format.h>

#include "common/log.h"
#include "store/store_core.h"

namespace banyan::store {

// Leased chunks of one form; an open layer's leases are counted in the chunks' words, this only remembers which.
struct Layer::Hold {
  Hold(std::shared_ptr<Layer> held, Form held_form, ChunkRange held_range)
      : layer(std::move(held)), form(held_form), range(held_range) {}
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;
  ~Hold() {
    ChunkFile& file = layer->file(form);
    for (ChunkIndex i = range.begin; i < range.end; ++i) {
      if (file.presence().Unlease(i)) layer->FinishDrop(file, i);
    }
  }

  const std::shared_ptr<Layer> layer;
  const Form form;
  const ChunkRange range;
};

Layer::Layer(std::shared_ptr<StoreCore> core, image_format::Device device, std::shared_ptr<LayerUse> use)
    : core_(std::move(core)), device_(std::move(device)), use_(std::move(use)) {}

Layer::~Layer() {
  if (!compressed_) return;  // Make() failed.
  use_->block_bytes.store(blocks_->present_bytes(), std::memory_order_relaxed);
  use_->compressed_bytes.store(compressed_->present_bytes(), std::memory_order_relaxed);
}

Result<std::shared_ptr<Layer>> Layer::Make(std::shared_ptr<StoreCore> core, image_format::Device device,
                                           std::shared_ptr<LayerUse> use, const PresenceRecord& record) {
  std::shared_ptr<Layer> layer(new Layer(std::move(core), std::move(device), std::move(use)));
  const image_format::ChunkTable& chunks = layer->device_.chunks;
  const Digest& blob = layer->device_.blob_digest;
  StoreCore& owner = *layer->core_;
  BANYAN_ASSIGN(layer->blocks_, ChunkFile::Open(Form::kBlocks, chunks, owner.PathOf(Form::kBlocks, blob),
                                                Bitmap(chunks.size(), record.blocks), owner.directory(Form::kBlocks),
                                                /*keep_open=*/true));
  BANYAN_ASSIGN(layer->compressed_, ChunkFile::Open(Form::kCompressed, chunks, owner.PathOf(Form::kCompressed, blob),
                                                    Bitmap(chunks.size(), record.compressed),
                                                    owner.directory(Form::kCompressed), /*keep_open=*/false));
  return layer;
}

std::optional<std::shared_ptr<void>> Layer::LeaseForm(Form form, ChunkRange range) {
  if (range.begin > range.end || range.end > size()) return std::nullopt;
  ChunkFile& leased = file(form);
  for (ChunkIndex i = range.begin; i < range.end; ++i) {
    if (leased.presence().Lease(i)) continue;
    const Hold undo(shared_from_this(), form, {range.begin, i});
    return std::nullopt;
  }
  return std::make_shared<Hold>(shared_from_this(), form, range);
}

std::optional<ChunkLease> Layer::Lease(ChunkRange range) {
  std::optional<std::shared_ptr<void>> hold = LeaseForm(Form::kBlocks, range);
  if (!hold) return std::nullopt;
  return ChunkLease(std::move(*hold));
}

Status Layer::PutBlocks(ChunkIndex chunk, std::span<const std::byte> blocks) {
  return Put(Form::kBlocks, chunk, blocks);
}

Status Layer::PutCompressed(ChunkIndex chunk, std::span<const std::byte> compressed) {
  return Put(Form::kCompressed, chunk, compressed);
}

Status Layer::Put(Form form, ChunkIndex chunk, std::span<const std::byte> data) {
  ChunkFile& target = file(form);
  if (chunk >= size() || data.size() != target.BytesOf(chunk)) {
    return Fail(Code::kInvalidArgument, fmt::format("{}: {} bytes do not fit it", NameOf(chunk), data.size()));
  }
  if (core_->closed()) return Fail(Code::kFailedPrecondition, "the node store is closed");
  switch (target.presence().BeginWrite(chunk)) {
    case Presence::WriteTurn::kPresent:
      return {};
    case Presence::WriteTurn::kDropped:
      return Fail(Code::kResourceExhausted, NameOf(chunk) + ": dropped, and readers still hold its old bytes");
    case Presence::WriteTurn::kOwned:
      break;
  }
  if (Status written = WriteWithRoom(target, chunk, data); !written) {
    target.presence().Release(chunk);
    return Fail(written.error().WithContext(NameOf(chunk)));
  }
  target.Publish(chunk);
  MarkDirty();
  return {};
}

Status Layer::WriteWithRoom(ChunkFile& target, ChunkIndex chunk, std::span<const std::byte> data) {
  const Asker asker{this, target.form()};
  BANYAN_TRY(core_->evictor().Take(data.size(), asker));
  Status written = target.Write(chunk, data);
  if (!written && written.error().code == Code::kResourceExhausted && core_->evictor().FreeDisk(data.size(), asker)) {
    written = target.Write(chunk, data);
  }
  if (!written) core_->budget().Give(target.form(), data.size());
  return written;
}

Result<std::vector<std::byte>> Layer::GetCompressed(ChunkIndex chunk) {
  Result<std::vector<std::byte>> read = ReadChunk(Form::kCompressed, chunk, /*from_disk=*/false);
  if (read || read.error().code == Code::kNotFound) return read;
  spdlog::warn("{}", read.error().message);
  DropForm(Form::kCompressed, chunk);
  return Fail(Code::kNotFound, read.error().message);
}

Result<CompressedChunk> Layer::LeaseCompressed(ChunkIndex chunk) {
  struct OpenHold {
    std::shared_ptr<void> chunk;
    std::shared_ptr<const UniqueFd> fd;
  };
  auto hold = LeaseForm(Form::kCompressed, {chunk, chunk + 1});
  if (!hold) return Fail(Code::kNotFound, NameOf(chunk) + ": not in the store");
  BANYAN_ASSIGN(auto fd, compressed_->SharedFd());
  const int number = fd->get();
  const ByteRange range = compressed_->RangeOf(chunk);
  return CompressedChunk{number, range.begin, range.size(),
                         ChunkLease(std::make_shared<OpenHold>(OpenHold{std::move(*hold), std::move(fd)}))};
}

Result<std::vector<std::byte>> Layer::ReadChunk(Form form, ChunkIndex chunk, bool from_disk) {
  const auto lease = LeaseForm(form, {chunk, chunk + 1});
  if (!lease) return Fail(Code::kNotFound, NameOf(chunk) + ": not in the store");
  ChunkFile& source = file(form);
  std::vector<std::byte> bytes(source.BytesOf(chunk));
  BANYAN_TRY(from_disk ? source.ReadFromDisk(chunk, bytes) : source.Read(chunk, bytes));
  return bytes;
}

Result<bool> Layer::CopyFromOther(ChunkIndex chunk) {
  if (chunk >= size()) return Fail(Code::kInvalidArgument, NameOf(chunk) + ": no such chunk");
  if (Has(chunk)) return true;
  const std::optional<std::vector<std::byte>> blocks = core_->FindBytes(Form::kBlocks, *this, chunk);
  if (!blocks) return false;
  BANYAN_TRY(PutBlocks(chunk, *blocks));
  return true;
}

Result<bool> Layer::CopyCompressedFromOther(ChunkIndex chunk) {
  if (chunk >= size()) return Fail(Code::kInvalidArgument, NameOf(chunk) + ": no such chunk");
  if (HasCompressed(chunk)) return true;
  const std::optional<std::vector<std::byte>> compressed = core_->FindBytes(Form::kCompressed, *this, chunk);
  if (!compressed) return false;
  BANYAN_TRY(PutCompressed(chunk, *compressed));
  return true;
}

void Layer::Drop(ChunkIndex chunk) {
  if (chunk >= size()) return;
  DropForm(Form::kBlocks, chunk);
  DropForm(Form::kCompressed, chunk);
}

void Layer::DropForm(Form form, ChunkIndex chunk) {
  ChunkFile& target = file(form);
  const Presence::DropTurn turn = target.presence().ClaimForDrop(chunk);
  if (turn == Presence::DropTurn::kAbsent) return;
  target.Discount(target.BytesOf(chunk));
  Removal removal{shared_from_this(), &target, {chunk}, {}};
  if (Status committed = core_->CommitRemovals(std::span(&removal, 1)); !committed) {
    // The index will follow at the next flush. Until then a power cut may bring the bad bytes back, to be found bad
    // again, but no hole.
    spdlog::warn("{}: dropped, but not yet in the index: {}", NameOf(chunk), committed.error().message);
    target.KeepDropped();
    MarkDirty();
  }
  if (turn == Presence::DropTurn::kOwned || target.presence().Doom(chunk)) FinishDrop(target, chunk);
}

void Layer::FinishDrop(ChunkFile& target, ChunkIndex chunk) {
  target.ReleaseDropped(chunk);
  core_->budget().Give(target.form(), target.BytesOf(chunk));
}

void Layer::Touch() {
  use_->uses.fetch_add(1, std::memory_order_relaxed);
  use_->age.store(core_->age(), std::memory_order_relaxed);
  MarkDirty();
}

std::shared_ptr<void> Layer::HoldMounted() {
  use_->mounts.fetch_add(1, std::memory_order_acq_rel);
  return std::shared_ptr<void>(
      this, [self = shared_from_this()](void*) { self->use_->mounts.fetch_sub(1, std::memory_order_acq_rel); });
}

Result<std::shared_ptr<void>> Layer::PinWhole() {
  std::optional<std::shared_ptr<void>> hold = LeaseForm(Form::kBlocks, {0, size()});
  if (!hold) {
    return Fail(Code::kFailedPrecondition,
                fmt::format("layer {}: only {} of {} chunks are here", device_.blob_digest.ToString(),
                            blocks_->presence().count(), size()));
  }
  return std::move(*hold);
}

PresenceRecord Layer::DurableRecord() const {
  PresenceRecord record;
  record.uses = use_->uses.load(std::memory_order_relaxed);
  record.age = use_->age.load(std::memory_order_relaxed);
  record.blocks = blocks_->presence().durable_bytes();
  record.compressed = compressed_->presence().durable_bytes();
  record.block_bytes = blocks_->BytesIn(record.blocks);
  record.compressed_bytes = compressed_->BytesIn(record.compressed);
  return record;
}

void Layer::MarkDirty() {
  if (!dirty_.exchange(true, std::memory_order_acq_rel)) core_->AddDirty(shared_from_this());
}

std::string Layer::NameOf(ChunkIndex chunk) const {
  return fmt::format("chunk {} of layer {}", chunk, device_.blob_digest.ToString());
}

}  // namespace banyan::store
