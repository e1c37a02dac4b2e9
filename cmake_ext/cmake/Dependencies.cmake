# Turns AUTO, ON and OFF into BABELRS_WITH_CUDA and BABELRS_WITH_TENSORRT, and says what was found.

foreach(option BABELRS_CUDA BABELRS_TENSORRT)
  string(TOUPPER "${${option}}" ${option})
  if(NOT ${option} MATCHES "^(AUTO|ON|OFF)$")
    message(FATAL_ERROR "${option} is ${${option}}; give AUTO, ON or OFF.")
  endif()
endforeach()

set(BABELRS_WITH_CUDA OFF)
if(NOT BABELRS_CUDA STREQUAL OFF)
  include(CheckLanguage)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 75) # only to let the compiler be tried; chosen below by its version
    set(choose_architectures ON)
  endif()
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    find_package(CUDAToolkit REQUIRED)
    set(CMAKE_CUDA_STANDARD 17)
    set(CMAKE_CUDA_STANDARD_REQUIRED ON)
    set(BABELRS_WITH_CUDA ON)
    if(choose_architectures)
      # Machine code for T4, A100, RTX 30, Orin, RTX 40 and Hopper; PTX of the newest that every later GPU can compile.
      set(CMAKE_CUDA_ARCHITECTURES 75-real 80-real 86-real 87-real 89-real 90)
      if(CMAKE_CUDA_COMPILER_VERSION VERSION_GREATER_EQUAL 13.0)
        list(APPEND CMAKE_CUDA_ARCHITECTURES 110-real) # Thor; earlier compilers call it by another number
      endif()
    endif()
  elseif(BABELRS_CUDA STREQUAL ON)
    message(FATAL_ERROR "BABELRS_CUDA=ON, but no CUDA compiler was found. Put nvcc on PATH or set CUDACXX.")
  endif()
endif()

# TensorRT::headers is all that a plugin needs to compile and load: its symbols are the host program's.
set(BABELRS_WITH_TENSORRT OFF)
if(NOT BABELRS_TENSORRT STREQUAL OFF)
  find_path(TENSORRT_INCLUDE_DIR NvInferRuntime.h HINTS ${TENSORRT_ROOT}
            PATH_SUFFIXES include include/${CMAKE_LIBRARY_ARCHITECTURE})
  if(TENSORRT_INCLUDE_DIR AND BABELRS_WITH_CUDA)
    add_library(TensorRT::headers INTERFACE IMPORTED)
    target_include_directories(TensorRT::headers SYSTEM INTERFACE ${TENSORRT_INCLUDE_DIR})
    set(BABELRS_WITH_TENSORRT ON)
  elseif(BABELRS_TENSORRT STREQUAL ON)
    message(FATAL_ERROR "BABELRS_TENSORRT=ON needs TensorRT's headers (NvInferRuntime.h not found; set TENSORRT_ROOT) "
                        "and BABELRS_CUDA=ON or AUTO with a CUDA compiler.")
  endif()
endif()

message(STATUS "BabelRS: CUDA ${BABELRS_WITH_CUDA} ${CMAKE_CUDA_ARCHITECTURES}")
message(STATUS "BabelRS: TensorRT ${BABELRS_WITH_TENSORRT} ${TENSORRT_INCLUDE_DIR}")
