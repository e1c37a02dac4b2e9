#include "babelrs/merge.hpp"

#include <cmath>
#include <cstddef>
#include <utility>

#include "babelrs/rotated.hpp"

namespace babelrs {
namespace {

// Weighted sums over a cluster, as differences from its head: small numbers lose nothing, and the head gives zeros.
struct Sums {
  double weight = 0;
  double x = 0, y = 0, w = 0, h = 0;
  double cosine = 0, sine = 0;  // of twice the angle from the head's

  void add(const Box& head, const Box& member, double share) {
    const double turn = member.theta - head.theta;
    const double straight = (member.w * head.w + member.h * head.h) * std::abs(std::cos(turn));
    const double crossed = (member.h * head.w + member.w * head.h) * std::abs(std::sin(turn));
    const bool swap = crossed > straight;
    const double sign = swap ? -1 : 1;  // a quarter turn, doubled
    weight += share;
    x += share * (member.cx - head.cx);
    y += share * (member.cy - head.cy);
    w += share * ((swap ? member.h : member.w) - head.w);
    h += share * ((swap ? member.w : member.h) - head.h);
    cosine += share * sign * std::cos(2 * turn);
    sine += share * sign * std::sin(2 * turn);
  }

  Box mean(const Box& head) const {
    const double turn = std::hypot(cosine, sine) > 1e-12 * weight ? std::atan2(sine, cosine) / 2 : 0;
    return {head.cx + x / weight, head.cy + y / weight, head.w + w / weight, head.h + h / weight, head.theta + turn};
  }
};

Box box_at(const double* boxes, std::size_t index) {
  const double* row = boxes + 5 * index;
  return {row[0], row[1], row[2], row[3], row[4]};
}

}  // namespace

Merged rotated_merge(const Candidates& candidates, double iou_threshold, int threads) {
  Suppression found = suppress(candidates, iou_threshold, threads);
  std::vector<Sums> sums(found.kept.size());
  for (std::size_t i = 0; i < candidates.count; ++i) {
    const auto row = static_cast<std::size_t>(found.head_of[i]);
    const auto head = static_cast<std::size_t>(found.kept[row]);
    const double best = candidates.scores[head];  // shares of the head's score: no sum under- or overflows
    const double share = best > 0 ? candidates.scores[i] / best : 1;
    sums[row].add(box_at(candidates.boxes, head), box_at(candidates.boxes, i), share);
  }
  Merged merged;
  merged.boxes.reserve(5 * sums.size());
  for (std::size_t row = 0; row < sums.size(); ++row) {
    const Box mean = sums[row].mean(box_at(candidates.boxes, static_cast<std::size_t>(found.kept[row])));
    merged.boxes.insert(merged.boxes.end(), {mean.cx, mean.cy, mean.w, mean.h, mean.theta});
  }
  merged.heads = std::move(found.kept);
  merged.clusters = std::move(found.head_of);
  return merged;
}

}  // namespace babelrs
