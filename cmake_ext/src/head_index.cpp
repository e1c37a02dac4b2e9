#include "babelrs/head_index.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>

namespace babelrs {
namespace {

// Farther than this from the origin, in cells, rounding would move a box between cells.
constexpr double kFarthest = 1099511627776.0;  // 2^40
// Widens a search, in cells, by more than the rounding within that distance.
constexpr double kMargin = 1e-3;

double farthest_coordinate(const Rectangle& box) {
  return std::max(std::abs(box.cx), std::abs(box.cy)) + box.radius;
}

// Cells at least as wide as the box, and wide enough for its distance from the origin.
int exponent_of(const Rectangle& box) {
  return std::max(std::ilogb(2 * box.radius), std::ilogb(farthest_coordinate(box) / kFarthest)) + 1;
}

std::int64_t cell_of(double coordinate_in_cells) {
  assert(std::abs(coordinate_in_cells) <= 4 * kFarthest);
  return static_cast<std::int64_t>(std::floor(coordinate_in_cells));
}

std::size_t power_of_two_above(std::size_t value) {
  std::size_t power = 16;
  while (power < value) power *= 2;
  return power;
}

}  // namespace

HeadIndex::HeadIndex(std::size_t capacity, std::size_t classes, double iou_threshold)
    : iou_threshold_(iou_threshold), levels_(classes), buckets_(power_of_two_above(2 * capacity), kNone) {}

std::int32_t HeadIndex::find(const Rectangle& box, std::int32_t label, std::int32_t since, bool best) const {
  Query query{box, label, since, best, INT32_MAX};
  for (const Level& level : levels_[static_cast<std::size_t>(label)]) {
    if (level.newest < since) continue;
    if (areas_differ_too_much(level.largest, box.area, iou_threshold_)) continue;
    if (areas_differ_too_much(box.area, level.smallest, iou_threshold_)) continue;
    scan_level(level, query);
    if (query.done()) break;
  }
  return query.found == INT32_MAX ? kNone : query.found;
}

void HeadIndex::insert(const Rectangle& box, std::int32_t label) {
  const std::int32_t number = size();
  Level& level = level_of(exponent_of(box), label);
  const std::int64_t column = cell_of(box.cx / level.cell), row = cell_of(box.cy / level.cell);
  std::int32_t& first = buckets_[bucket(column, row, level.exponent, label)];
  heads_.push_back({box, label, first, level.newest});
  first = level.newest = number;
  level.smallest = std::min(level.smallest, box.area);
  level.largest = std::max(level.largest, box.area);
  ++level.count;
}

// Heads are chained from the newest to the oldest.
void HeadIndex::scan(std::int32_t newest, std::int32_t Head::*next, Query& query) const {
  for (std::int32_t number = newest; number >= query.since;) {
    const Head& head = heads_[static_cast<std::size_t>(number)];
    if (number < query.found && head.label == query.label && overlaps_more(head.box, query.box, iou_threshold_)) {
      query.found = number;
      if (query.done()) return;
    }
    number = head.*next;
  }
}

// Visits the cells whose heads, half a cell in radius at most, can reach the box; all heads where those are fewer.
void HeadIndex::scan_level(const Level& level, Query& query) const {
  const Rectangle& box = query.box;
  const double x = box.cx / level.cell, y = box.cy / level.cell, reach = box.radius / level.cell + 0.5 + kMargin;
  const double cells = (2 * reach + 1) * (2 * reach + 1);
  if (cells > level.count || farthest_coordinate(box) > kFarthest * level.cell) {
    scan(level.newest, &Head::next_in_level, query);
    return;
  }
  const std::int64_t last_row = cell_of(y + reach), last_column = cell_of(x + reach);
  for (std::int64_t row = cell_of(y - reach); row <= last_row; ++row) {
    for (std::int64_t column = cell_of(x - reach); column <= last_column; ++column) {
      scan(buckets_[bucket(column, row, level.exponent, query.label)], &Head::next_in_bucket, query);
      if (query.done()) return;
    }
  }
}

// Neighbours in a row share cache lines; rows, levels and classes are scattered.
std::size_t HeadIndex::bucket(std::int64_t column, std::int64_t row, int exponent, std::int32_t label) const {
  std::uint64_t mixed = static_cast<std::uint64_t>(row) * 0x9E3779B97F4A7C15u;
  mixed ^= static_cast<std::uint64_t>(exponent) * 0xC2B2AE3D27D4EB4Fu;
  mixed ^= static_cast<std::uint64_t>(label) * 0x165667B19E3779F9u;
  mixed = (mixed ^ (mixed >> 29)) * 0xBF58476D1CE4E5B9u;
  return static_cast<std::size_t>(((mixed >> 17) + static_cast<std::uint64_t>(column)) & (buckets_.size() - 1));
}

HeadIndex::Level& HeadIndex::level_of(int exponent, std::int32_t label) {
  std::vector<Level>& levels = levels_[static_cast<std::size_t>(label)];
  const auto known = std::find_if(levels.begin(), levels.end(), [&](const Level& l) { return l.exponent == exponent; });
  if (known != levels.end()) return *known;
  levels.push_back({exponent, std::ldexp(1.0, exponent), HUGE_VAL, 0.0, kNone, 0});
  return levels.back();
}

}  // namespace babelrs
