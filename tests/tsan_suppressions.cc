// Debian's RocksDB is not built for ThreadSanitizer, which therefore cannot see how its threads hand buffers to each
// other. Accesses made inside the library are left out (it also runs std::string's code, which lies in the program);
// whatever this code does outside of its calls is not. Every test program of a ThreadSanitizer build is linked with
// this file.
extern "C" const char* __tsan_default_suppressions();
extern "C" const char* __tsan_default_suppressions() { return "called_from_lib:librocksdb.so\nrace:librocksdb.so\n"; }
