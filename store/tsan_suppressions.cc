// Debian's RocksDB is not built for ThreadSanitizer, which therefore cannot see how its threads hand buffers to each
// other. Accesses made inside the library are left out; those of this code are not. Linked into tests.
#ifdef __SANITIZE_THREAD__
extern "C" const char* __tsan_default_suppressions();
extern "C" const char* __tsan_default_suppressions() {
  return "called_from_lib:librocksdb.so\nrace:librocksdb.so\nrace:rocksdb::\n";
}
#endif
