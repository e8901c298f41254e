// Debian's RocksDB is not built for ThreadSanitizer, which therefore cannot see how its threads hand buffers to each
// other. What the library itself calls (memcpy, free, locks) is left out; whatever this code does is not. Every test
// program of a ThreadSanitizer build is linked with this file.
extern "C" const char* __tsan_default_suppressions();
extern "C" const char* __tsan_default_suppressions() { return "called_from_lib:librocksdb.so\n"; }
