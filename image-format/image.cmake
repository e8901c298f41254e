set(IMAGE_SOURCES
  artifact.cc erofs_check.cc erofs_reader.cc erofs_writer.cc image_builder.cc image_map.cc merge.cc oci.cc oci_json.cc)

banyan_test(erofs_test SOURCES erofs_mount_test.cc DEPS banyan::image_format)
