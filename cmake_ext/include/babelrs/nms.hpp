// Greedy non-maximum suppression of rotated boxes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace babelrs {

// Indices of the boxes that survive, by descending score; equal scores keep the order of their indices.
// A box falls when a kept box of its own label overlaps it by more than `iou_threshold`.
// `boxes` holds `count` rows of five doubles, see rotated.hpp; no score may be NaN.
std::vector<std::int64_t> rotated_nms(const double* boxes, const double* scores, const std::int64_t* labels,
                                      std::size_t count, double iou_threshold);

}  // namespace babelrs
