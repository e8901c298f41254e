set(CONVERT_SOURCES
  chunk_table.cc chunk_table_proto.cc decompress.cc layer_index.cc layer_index_check.cc zstd_sink.cc)
