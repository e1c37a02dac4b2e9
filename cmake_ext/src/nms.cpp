#include "babelrs/nms.hpp"

#include <algorithm>
#include <numeric>
#include <unordered_map>

#include "babelrs/rotated.hpp"

namespace babelrs {

std::vector<std::int64_t> rotated_nms(const double* boxes, const double* scores, const std::int64_t* labels,
                                      std::size_t count, double iou_threshold) {
  const std::vector<Rectangle> rectangles = prepare(boxes, count);
  std::vector<std::int64_t> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](auto i, auto j) { return scores[i] > scores[j]; });

  std::vector<std::int64_t> kept;
  std::unordered_map<std::int64_t, std::vector<Rectangle>> kept_of_label;
  for (const std::int64_t index : order) {
    const Rectangle& candidate = rectangles[index];
    std::vector<Rectangle>& rivals = kept_of_label[labels[index]];
    const bool falls = std::any_of(rivals.begin(), rivals.end(), [&](const Rectangle& rival) {
      return intersection_over_union(rival, candidate) > iou_threshold;
    });
    if (falls) continue;
    rivals.push_back(candidate);
    kept.push_back(index);
  }
  return kept;
}

}  // namespace babelrs
