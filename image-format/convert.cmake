set(CONVERT_SOURCES
  chunk_pipeline.cc chunk_table.cc chunk_table_proto.cc chunker.cc decompress.cc hash_lane.cc layer_converter.cc
  layer_index.cc layer_index_check.cc layer_tree.cc tar_header.cc tar_reader.cc zstd_sink.cc)

banyan_test(convert_test
  SOURCES chunk_table_test.cc chunker_test.cc decompress_test.cc layer_converter_test.cc layer_index_test.cc
          layer_tree_test.cc tar_reader_test.cc
  DEPS banyan::image_format)
banyan_fuzz(tar_fuzz SOURCE tar_fuzz.cc DEPS banyan::image_format)
banyan_fuzz(layer_index_fuzz SOURCE layer_index_fuzz.cc DEPS banyan::image_format)
