# Debian packages: `cpack -G DEB` in a build directory (scripts/packages.sh). One a daemon, since they are upgraded and removed one by one:
# banyan (the command line), banyan-keeper, banyan-peer-agent, banyan-registry-proxy, banyan-tree-manager.
include(GNUInstallDirs)
find_program(GZIP gzip REQUIRED)
set(DEBIAN_DIR ${PROJECT_SOURCE_DIR}/deploy/debian)
set(UNIT_DIR /lib/systemd/system)

# Files that Debian wants compressed.
function(banyan_install_gz package directory)
  foreach(file ${ARGN})
    get_filename_component(name ${file} NAME)
    install(CODE "
      set(target \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${directory}\")
      file(MAKE_DIRECTORY \"\${target}\")
      execute_process(COMMAND ${GZIP} -9nc \"${file}\" OUTPUT_FILE \"\${target}/${name}.gz\" COMMAND_ERROR_IS_FATAL ANY)"
      COMPONENT ${package})
  endforeach()
endfunction()

# banyan_package(<name> TARGET t DESCRIPTION d [DEPENDS d] [UNIT u UPGRADE start|restart [BUSY]] [OPTIONAL_UNIT path] [CONFIG file] [MAN page…])
# OPTIONAL_UNIT is neither enabled nor started: that is for the operator; a removal stops it.
# Beside its unit's own, the maintainer scripts run deploy/debian/<name>.configure and <name>.purge, where there are such.
function(banyan_package name)
  cmake_parse_arguments(ARG "BUSY" "TARGET;SUMMARY;DESCRIPTION;DEPENDS;RECOMMENDS;SUGGESTS;UNIT;UPGRADE;OPTIONAL_UNIT;CONFIG" "MAN" ${ARGN})
  install(TARGETS ${ARG_TARGET} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT ${name})
  install(FILES ${DEBIAN_DIR}/copyright DESTINATION ${CMAKE_INSTALL_DATAROOTDIR}/doc/${name} COMPONENT ${name})
  # A native package's: its version has no Debian revision.
  banyan_install_gz(${name} share/doc/${name} ${DEBIAN_DIR}/changelog)
  foreach(page ${ARG_MAN})
    if(NOT EXISTS ${page})
      continue()
    endif()
    string(REGEX MATCH "[0-9]$" section ${page})
    banyan_install_gz(${name} share/man/man${section} ${page})
  endforeach()
  set(control)
  if(ARG_UNIT)
    install(FILES ${PROJECT_SOURCE_DIR}/deploy/systemd/${ARG_UNIT} DESTINATION ${UNIT_DIR} COMPONENT ${name})
    set(scripts ${PROJECT_BINARY_DIR}/debian/${name})
    set(PACKAGE ${name})
    set(UNIT ${ARG_UNIT})
    set(OPTIONAL_UNIT)
    if(ARG_OPTIONAL_UNIT)
      install(FILES ${PROJECT_SOURCE_DIR}/deploy/${ARG_OPTIONAL_UNIT} DESTINATION ${UNIT_DIR} COMPONENT ${name})
      get_filename_component(OPTIONAL_UNIT ${ARG_OPTIONAL_UNIT} NAME)
    endif()
    set(UPGRADE_ACTION ${ARG_UPGRADE})
    foreach(fragment configure purge)
      string(TOUPPER ${fragment} variable)
      set(${variable} "  :\n")
      if(EXISTS ${DEBIAN_DIR}/${name}.${fragment})
        file(READ ${DEBIAN_DIR}/${name}.${fragment} ${variable})
      endif()
    endforeach()
    set(BUSY "  busy=\n")
    if(ARG_BUSY)
      file(READ ${DEBIAN_DIR}/busy.sh BUSY)
      string(CONFIGURE "${BUSY}" BUSY @ONLY)
    endif()
    foreach(script postinst prerm postrm)
      configure_file(${DEBIAN_DIR}/${script}.in ${scripts}/${script} @ONLY FILE_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE
        GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
      list(APPEND control ${scripts}/${script})
    endforeach()
  endif()
  if(ARG_CONFIG)
    install(FILES ${PROJECT_SOURCE_DIR}/deploy/${ARG_CONFIG} DESTINATION /etc/banyan COMPONENT ${name})
    file(WRITE ${PROJECT_BINARY_DIR}/debian/${name}/conffiles "/etc/banyan/${ARG_CONFIG}\n")
    list(APPEND control ${PROJECT_BINARY_DIR}/debian/${name}/conffiles)
  endif()
  string(TOUPPER ${name} upper)
  set(CPACK_DEBIAN_${upper}_PACKAGE_NAME ${name} PARENT_SCOPE)
  set(CPACK_DEBIAN_${upper}_FILE_NAME DEB-DEFAULT PARENT_SCOPE)
  set(CPACK_COMPONENT_${upper}_DESCRIPTION "${ARG_SUMMARY}\n${ARG_DESCRIPTION}" PARENT_SCOPE)
  set(CPACK_DEBIAN_${upper}_PACKAGE_DEPENDS "${ARG_DEPENDS}" PARENT_SCOPE)
  set(CPACK_DEBIAN_${upper}_PACKAGE_RECOMMENDS "${ARG_RECOMMENDS}" PARENT_SCOPE)
  set(CPACK_DEBIAN_${upper}_PACKAGE_SUGGESTS "${ARG_SUGGESTS}" PARENT_SCOPE)
  set(CPACK_DEBIAN_${upper}_PACKAGE_CONTROL_EXTRA "${control}" PARENT_SCOPE)
  set(BANYAN_PACKAGES ${BANYAN_PACKAGES} ${name} PARENT_SCOPE)
endfunction()

file(GLOB COMMAND_PAGES CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/docs/man/*.1)
set(MAN8 ${PROJECT_SOURCE_DIR}/docs/man)

banyan_package(banyan TARGET banyan MAN ${COMMAND_PAGES}
  SUMMARY "lazily started container images: the command line"
  DESCRIPTION "banyan converts images, mounts, runs and checks them, shows what a node\nor a cluster does, and installs the snapshotter into containerd.")
install(FILES ${PROJECT_SOURCE_DIR}/deploy/completion/banyan.bash DESTINATION share/bash-completion/completions RENAME banyan COMPONENT banyan OPTIONAL)
install(FILES ${PROJECT_SOURCE_DIR}/deploy/completion/_banyan DESTINATION share/zsh/vendor-completions COMPONENT banyan OPTIONAL)
install(FILES ${PROJECT_SOURCE_DIR}/deploy/completion/banyan.fish DESTINATION share/fish/vendor_completions.d COMPONENT banyan OPTIONAL)
# Of use on every machine of ours, as this package is.
install(DIRECTORY ${PROJECT_SOURCE_DIR}/deploy/containerd DESTINATION share/banyan COMPONENT banyan)
install(PROGRAMS ${PROJECT_SOURCE_DIR}/deploy/network/banyan.nft DESTINATION share/banyan COMPONENT banyan)

# Not restarted at an upgrade: mounts whose agent is away at that moment would be lost. A reboot, or a quiet node, takes the new one.
banyan_package(banyan-keeper TARGET banyan-keeper UNIT banyan-keeper.service UPGRADE start BUSY MAN ${MAN8}/banyan-keeper.8
  SUMMARY "lazily started container images: keeper of mounts"
  DESCRIPTION "Holds the descriptors of lazy mounts, so that banyan-peer-agent can be\nrestarted and upgraded while containers run.")

banyan_package(banyan-peer-agent TARGET banyan-peer-agent UNIT banyan-peer-agent.service UPGRADE restart BUSY CONFIG peer-agent.toml
  OPTIONAL_UNIT preemption/banyan-preemption.service SUGGESTS "curl"
  MAN ${MAN8}/banyan-peer-agent.8 DEPENDS "banyan-keeper" RECOMMENDS "banyan, containerd (>= 1.6)"
  SUMMARY "lazily started container images: a node's agent"
  DESCRIPTION "Node store, lazy mounts, containerd's snapshotter and registry mirror,\nand what the node gives its peers.")
# It calls curl and `banyan drain`.
install(PROGRAMS ${PROJECT_SOURCE_DIR}/deploy/preemption/banyan-preemption DESTINATION share/banyan COMPONENT banyan-peer-agent)

banyan_package(banyan-registry-proxy TARGET banyan-registry-proxy UNIT banyan-registry-proxy.service UPGRADE restart CONFIG registry-proxy.toml
  MAN ${MAN8}/banyan-registry-proxy.8 DEPENDS "banyan"
  SUMMARY "lazily started container images: converting registry mirror"
  DESCRIPTION "A pull-through registry mirror that converts images at their first pull\nand signs what it makes.")

banyan_package(banyan-tree-manager TARGET banyan-tree-manager UNIT banyan-tree-manager.service UPGRADE restart CONFIG tree-manager.toml
  MAN ${MAN8}/banyan-tree-manager.8 RECOMMENDS "banyan"
  SUMMARY "lazily started container images: tree manager"
  DESCRIPTION "Arranges the nodes that run an image into trees, by which they get it\nfrom each other. One in a cluster.")
install(DIRECTORY ${PROJECT_SOURCE_DIR}/deploy/prometheus ${PROJECT_SOURCE_DIR}/deploy/grafana DESTINATION share/banyan COMPONENT banyan-tree-manager
  PATTERN "*.test.yml" EXCLUDE)

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME banyan)
set(CPACK_PACKAGE_VERSION ${PROJECT_VERSION})
set(CPACK_PACKAGE_CONTACT "Banyan maintainers <maintainers@banyan.invalid>")
set(CPACK_PACKAGE_DIRECTORY ${PROJECT_BINARY_DIR}/packages)
set(CPACK_COMPONENTS_ALL ${BANYAN_PACKAGES})
set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_SET_DESTDIR ON)
set(CPACK_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_PACKAGE_SECTION admin)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_INSTALL_DEFAULT_DIRECTORY_PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE GROUP_READ GROUP_EXECUTE WORLD_READ WORLD_EXECUTE)
include(CPack)
