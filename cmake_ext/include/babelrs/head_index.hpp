// Finds, among kept boxes, those that a candidate overlaps: a hash grid with one level per size of box.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "babelrs/rotated.hpp"

namespace babelrs {

// Kept boxes ("heads") numbered 0, 1, ... in the order of insertion. A head lies in the one cell of its centre, on
// the level whose cells are the smallest power of two above its diameter; a query visits the cells around it that can
// hold a neighbour, on the levels that its area allows. Any finite coordinates and sides; heads of other classes are
// never looked at. Queries may run in several threads at once.
class HeadIndex {
 public:
  static constexpr std::int32_t kNone = -1;

  // `capacity` is the number of boxes to come at most, `classes` the number of classes.
  HeadIndex(std::size_t capacity, std::size_t classes, double iou_threshold);

  // Number of a head of `label` in [0, classes), from `since` on, that `box` overlaps by more than the threshold;
  // kNone where there is none. The lowest such number with `best`, else the first found.
  std::int32_t find(const Rectangle& box, std::int32_t label, std::int32_t since, bool best) const;

  // Adds a head, numbered size().
  void insert(const Rectangle& box, std::int32_t label);

  std::int32_t size() const { return static_cast<std::int32_t>(heads_.size()); }
  const Rectangle& head(std::int32_t number) const { return heads_[static_cast<std::size_t>(number)].box; }

 private:
  struct Head {
    Rectangle box;
    std::int32_t label;
    std::int32_t next_in_bucket, next_in_level;  // older heads
  };
  struct Level {
    int exponent;  // cells are 2^exponent px wide
    double cell;
    double smallest, largest;  // areas of the heads, px^2
    std::int32_t newest;
    std::int32_t count;
  };
  struct Query {
    const Rectangle& box;
    std::int32_t label, since;
    bool best;
    std::int32_t found;

    bool done() const { return found != INT32_MAX && !best; }
  };

  void scan(std::int32_t newest, std::int32_t Head::*next, Query& query) const;
  void scan_level(const Level& level, Query& query) const;
  std::size_t bucket(std::int64_t column, std::int64_t row, int exponent, std::int32_t label) const;
  Level& level_of(int exponent, std::int32_t label);

  double iou_threshold_;
  std::vector<Head> heads_;
  std::vector<std::vector<Level>> levels_;  // by class
  std::vector<std::int32_t> buckets_;       // newest head; cells that share one are told apart by the boxes themselves
};

}  // namespace babelrs
