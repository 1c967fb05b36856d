# The tests of report/.
nnmem_unit_test(format LIBS nnmem_report)
nnmem_unit_test(arguments LIBS nnmem_report)
nnmem_unit_test(json LIBS nnmem_report)
nnmem_unit_test(csv LIBS nnmem_report)
nnmem_unit_test(rows LIBS nnmem_report)
nnmem_unit_test(groups LIBS nnmem_report)

# nnmem-run from a place of its own, beside a library that does nothing.
set(run_folder ${CMAKE_CURRENT_BINARY_DIR}/run)
file(WRITE ${run_folder}/empty.c "int nnmem_test_empty;\n")
add_library(test_run_preload SHARED ${run_folder}/empty.c)
set_target_properties(test_run_preload PROPERTIES OUTPUT_NAME nnmemhook LIBRARY_OUTPUT_DIRECTORY ${run_folder}/lib)
nnmem_unit_test(run LIBS util)
target_compile_definitions(test_run PRIVATE _GNU_SOURCE RUN_UNDER_TEST="${run_folder}/bin/nnmem-run"
                           PRELOAD_UNDER_TEST="${run_folder}/lib/libnnmemhook.so")
add_custom_command(
  OUTPUT ${run_folder}/bin/nnmem-run
  COMMAND ${CMAKE_COMMAND} -E make_directory ${run_folder}/bin
  COMMAND ${CMAKE_COMMAND} -E copy $<TARGET_FILE:nnmem-run> ${run_folder}/bin/nnmem-run
  DEPENDS nnmem-run)
add_custom_target(test_run_copy DEPENDS ${run_folder}/bin/nnmem-run)
add_dependencies(test_run test_run_copy test_run_preload)
# Compiled code to find names for: lines as they were written, whatever this build optimises.
add_library(symbols_lib MODULE ${CMAKE_CURRENT_SOURCE_DIR}/symbols_lib.c)
target_compile_options(symbols_lib PRIVATE -g -O1 -fno-sanitize=all)
target_link_options(symbols_lib PRIVATE -Wl,--build-id=sha1)
nnmem_unit_test(symbols LIBS nnmem_report)
target_compile_definitions(test_symbols PRIVATE SYMBOLS_LIB="$<TARGET_FILE:symbols_lib>")
add_dependencies(test_symbols symbols_lib)
