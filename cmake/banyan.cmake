# The three shapes of target that the folders use.
include(GoogleTest)

# A skipped test says why. On CI's machine nothing has a reason to skip, so there a skip is a failure. (Not
# SKIP_REGULAR_EXPRESSION: it would hide a case that fails beside one that skips.)
if(DEFINED ENV{CI})
  set(BANYAN_SKIP_IS FAIL_REGULAR_EXPRESSION "\\[  SKIPPED \\]")
  set(BANYAN_SKIP_CODE)
else()
  set(BANYAN_SKIP_IS)
  set(BANYAN_SKIP_CODE SKIP_RETURN_CODE 77)
endif()

# banyan_library(<name> SOURCES a.cc … DEPS lib …): the folder's static library. Alias banyan::<name>.
function(banyan_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_library(banyan_${name} STATIC ${ARG_SOURCES})
  add_library(banyan::${name} ALIAS banyan_${name})
  target_link_libraries(banyan_${name} PUBLIC banyan_flags ${ARG_DEPS})
endfunction()

# banyan_test(<name> SOURCES a_test.cc … DEPS lib … [LABELS l …]): a GoogleTest program, one ctest entry a program
# (a process a test case would cost more than the cases).
function(banyan_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;DEPS;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  target_compile_definitions(${name} PRIVATE BANYAN_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  target_link_libraries(${name} PRIVATE banyan_flags ${ARG_DEPS} GTest::gmock GTest::gtest_main)
  if(BANYAN_SANITIZE MATCHES "thread")
    target_sources(${name} PRIVATE ${PROJECT_SOURCE_DIR}/tests/tsan_suppressions.cc)
  endif()
  add_test(NAME ${name} COMMAND ${name})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "unit;${ARG_LABELS}" ${BANYAN_SKIP_IS})
endfunction()

# banyan_fuzz(<name> SOURCE x_fuzz.cc DEPS lib …): a libFuzzer target. Outside the fuzz preset it is linked with
# tests/fuzz_replay_main.cc and ctest runs it over its corpus, tests/corpus/<name>/.
function(banyan_fuzz name)
  cmake_parse_arguments(ARG "" "SOURCE" "DEPS" ${ARGN})
  if(BANYAN_FUZZ)
    add_executable(${name} ${ARG_SOURCE})
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  else()
    add_executable(${name} ${ARG_SOURCE} ${PROJECT_SOURCE_DIR}/tests/fuzz_replay_main.cc)
  endif()
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  target_link_libraries(${name} PRIVATE banyan_flags ${ARG_DEPS})
  add_test(NAME ${name} COMMAND ${name} ${PROJECT_SOURCE_DIR}/tests/corpus/${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT 120 LABELS "fuzz")
  if(BANYAN_FUZZ)
    set_tests_properties(${name} PROPERTIES ENVIRONMENT "BANYAN_FUZZ=1")
  endif()
endfunction()
