// Merging of rotated boxes that show the same object, for instance from overlapping tiles.
#pragma once

#include <cstdint>
#include <vector>

#include "babelrs/nms.hpp"

namespace babelrs {

struct Merged {
  std::vector<double> boxes;           // rows of five, one per cluster
  std::vector<std::int64_t> heads;     // index of the best-scored member of each cluster, by descending score
  std::vector<std::int64_t> clusters;  // for every box that came in, the row of its cluster
};

// Every box joins the head that `suppress` finds for it. The members of a cluster are averaged, weighted by score;
// where all its scores are 0, equally. Scores are not negative.
//
// A rectangle has two descriptions, (w, h, theta) and (h, w, theta + pi/2). Of each member, the one counts whose
// half-side vectors lie nearer to the head's. Then centre, w and h are weighted means, and theta is half the direction
// of the weighted mean of (cos 2 theta, sin 2 theta), which knows no boundary; the head's angle where that mean is 0.
// A cluster of one gives its box back unchanged.
Merged rotated_merge(const Candidates& candidates, double iou_threshold, int threads = 1);

}  // namespace babelrs
