# cmake -DOUTPUT=assets.cc -DFILES=name=path|name=path… -P embed.cmake: C++ with the files' bytes in it (assets.h).
string(REPLACE "|" ";" FILES "${FILES}")
set(arrays "")
set(table "")
set(count 0)
foreach(file ${FILES})
  string(REGEX MATCH "^([^=]+)=(.+)$" _ "${file}")
  set(name "${CMAKE_MATCH_1}")
  set(path "${CMAKE_MATCH_2}")
  if(name MATCHES "\\.html$")
    set(type "text/html; charset=utf-8")
  elseif(name MATCHES "\\.css$")
    set(type "text/css; charset=utf-8")
  elseif(name MATCHES "\\.js$")
    set(type "text/javascript; charset=utf-8")
  elseif(name MATCHES "\\.svg$")
    set(type "image/svg+xml")
  elseif(name MATCHES "\\.txt$")
    set(type "text/plain; charset=utf-8")
  else()
    message(FATAL_ERROR "${name}: of what type?")
  endif()
  file(SHA256 "${path}" tag)
  string(SUBSTRING "${tag}" 0 32 tag)
  file(READ "${path}" bytes HEX)
  string(REGEX REPLACE "(..)" "0x\\1," bytes "${bytes}")
  string(APPEND arrays "const unsigned char kBytes${count}[] = {${bytes}};\n")
  string(APPEND table "    {\"${name}\", \"${type}\", \"${tag}\", View(kBytes${count}, sizeof kBytes${count})},\n")
  math(EXPR count "${count} + 1")
endforeach()
file(WRITE "${OUTPUT}" "// Made by embed.cmake.
#include \"tree-manager/dashboard/assets.h\"

namespace banyan::tree_manager {
namespace {

${arrays}
std::string_view View(const unsigned char* bytes, size_t size) { return {reinterpret_cast<const char*>(bytes), size}; }

}  // namespace

std::span<const Asset> Assets() {
  static const Asset kAssets[] = {
${table}  };
  return kAssets;
}

}  // namespace banyan::tree_manager
")
