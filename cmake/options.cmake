# Compiler options of every target, and the sanitizers of those that can have them.
add_compile_options(-Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla -Wformat=2
                    -Wno-unused-parameter -fno-strict-aliasing -fno-common)
if(NNMEM_WERROR)
  add_compile_options(-Werror)
endif()
if(CMAKE_BUILD_TYPE STREQUAL "Release")
  add_compile_options(-g1)
endif()

# nnmem_sanitize(target): everything but the preloaded library, which a sanitizer's runtime cannot be preloaded with.
function(nnmem_sanitize target)
  if(NNMEM_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${NNMEM_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
    target_link_options(${target} PUBLIC -fsanitize=${NNMEM_SANITIZE})
  endif()
endfunction()
