set(IMAGE_SOURCES
  artifact.cc erofs_check.cc erofs_flatten.cc erofs_reader.cc erofs_writer.cc image_builder.cc image_map.cc merge.cc oci.cc oci_json.cc signature.cc
  torrent.cc)

banyan_test(image_format_image_test
  SOURCES erofs_mount_test.cc golden_test.cc image_builder_test.cc merge_test.cc oci_test.cc signature_test.cc torrent_test.cc
  DEPS banyan::image_format)

foreach(target image_map_fuzz erofs_reader_fuzz manifest_fuzz torrent_fuzz)
  banyan_fuzz(${target} SOURCE ${target}.cc DEPS banyan::image_format)
endforeach()
