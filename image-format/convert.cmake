set(CONVERT_SOURCES chunk_table.cc chunk_table_proto.cc)
