// Greedy non-maximum suppression of rotated boxes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace babelrs {

// Detections as callers store them: `boxes` holds `count` rows of five doubles, see rotated.hpp.
struct Candidates {
  const double* boxes;
  const double* scores;  // never NaN
  const std::int64_t* labels;
  std::size_t count;
};

// What suppression does to every box: `kept` are the indices of the survivors ("heads"), by descending score, equal
// scores in the order of their indices; `head_of` has one row in `kept` for every box, its own for a head.
struct Suppression {
  std::vector<std::int64_t> kept;
  std::vector<std::int64_t> head_of;
};

// Indices of the boxes that survive. A box falls when a kept box of its own label overlaps it by more than
// `iou_threshold`, in [0, 1]. The answer does not depend on `threads`.
// Throws std::invalid_argument for a threshold outside [0, 1] and for 2^31 boxes or more.
std::vector<std::int64_t> rotated_nms(const Candidates& candidates, double iou_threshold, int threads = 1);

// The same, with the head of every box: of those that overlap it by more than the threshold, the best-scored.
Suppression suppress(const Candidates& candidates, double iou_threshold, int threads = 1);

}  // namespace babelrs
