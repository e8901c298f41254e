set(CONVERT_SOURCES
  chunk_pipeline.cc chunk_table.cc chunk_table_proto.cc chunker.cc decompress.cc hash_lane.cc layer_converter.cc
  layer_index.cc layer_index_check.cc layer_tree.cc tar_header.cc tar_reader.cc zstd_sink.cc)
