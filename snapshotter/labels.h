// What the labels of a snapshot say, and which names and labels are taken at all.
#pragma once

#include <optional>
#include <string>

#include "common/result.h"
#include "snapshotter/lazy_images.h"
#include "snapshotter/snapshot.h"

namespace banyan::snapshotter {

// Not empty, of a sane size, UTF-8 without control characters.
Status CheckName(const std::string& what, const std::string& name);
// Of a sane size, UTF-8.
Status CheckLabels(const Labels& labels);

// An empty value means: no such label.
Labels WithoutEmpty(Labels labels);

// The layer that containerd is about to unpack, if the labels name it and its image. Those of CRI
// (containerd.io/snapshot/cri.*) come before those of ctr-remote (containerd.io/snapshot/remote/stargz.*).
std::optional<LayerRequest> ParseLayerRequest(const Labels& labels);

}  // namespace banyan::snapshotter
