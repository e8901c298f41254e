// gzip members for tests.
#pragma once

#include <isa-l/crc.h>
#include <isa-l/igzip_lib.h>

#include <cstdint>
#include <string>

namespace banyan::image_format::testing {

inline std::string Deflate(const std::string& text, int wrapper) {
  isal_zstream stream;
  isal_deflate_stateless_init(&stream);
  std::string out(text.size() + text.size() / 8 + 1024, '\0');
  stream.gzip_flag = static_cast<uint16_t>(wrapper);
  stream.end_of_stream = 1;
  stream.next_in = reinterpret_cast<uint8_t*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uint32_t>(text.size());
  stream.next_out = reinterpret_cast<uint8_t*>(out.data());
  stream.avail_out = static_cast<uint32_t>(out.size());
  isal_deflate_stateless(&stream);
  out.resize(out.size() - stream.avail_out);
  return out;
}

inline std::string Gzip(const std::string& text) { return Deflate(text, IGZIP_GZIP); }

// Extra field, name, comment and, if asked for, the header's CRC-16.
inline std::string GzipWithAllFields(const std::string& text, bool header_checksum) {
  const auto crc32 = [](const std::string& bytes) {
    return crc32_gzip_refl(0, reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  };
  const auto little = [](uint32_t value, int bytes) {
    std::string out;
    for (int i = 0; i < bytes; ++i) out += static_cast<char>(value >> (8 * i));
    return out;
  };
  std::string header("\x1f\x8b\x08", 3);
  header += static_cast<char>(0x04 | 0x08 | 0x10 | (header_checksum ? 0x02 : 0));
  header += std::string("\1\2\3\4\0\3", 6);
  header += little(300, 2) + std::string(300, 'e');
  header += std::string("name\0comment\0", 13);
  if (header_checksum) header += little(crc32(header) & 0xffff, 2);
  return header + Deflate(text, IGZIP_DEFLATE) + little(crc32(text), 4) + little(static_cast<uint32_t>(text.size()), 4);
}

}  // namespace banyan::image_format::testing
