// What banyan-keeper and its clients say to each other: one SOCK_SEQPACKET datagram for a question, one for its answer,
// descriptors beside them as SCM_RIGHTS. Little more than plain data, because the keeper must be able to outlive any
// number of agents' versions.
//
//   op     question                          answer
//   Put    name; 2 descriptors (fuse, journal)  status
//   Get    name                              status; 2 descriptors if 0
//   Drop   name                              status (0 also when unknown)
//   List   index n                           status, the n-th name in order; ENOENT behind the last
//   Hello  -                                 status; version
#pragma once

#include <cstdint>

namespace banyan::lazyfs::keeper {

inline constexpr uint32_t kMagic = 0x424b5031;  // "BKP1"
inline constexpr uint32_t kVersion = 1;
inline constexpr uint32_t kNameBytes = 128;  // with its NUL
inline constexpr uint32_t kDescriptors = 2;

enum class Op : uint32_t { kHello = 1, kPut = 2, kGet = 3, kDrop = 4, kList = 5 };

struct Message {
  uint32_t magic = kMagic;
  uint32_t version = kVersion;
  Op op = Op::kHello;
  int32_t status = 0;  // of an answer: 0 or an errno value
  uint32_t index = 0;  // of List
  uint32_t reserved = 0;
  char name[kNameBytes] = {};
};
static_assert(sizeof(Message) == 24 + kNameBytes);

}  // namespace banyan::lazyfs::keeper
