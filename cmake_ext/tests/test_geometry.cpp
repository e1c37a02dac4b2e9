// Rotated geometry under sanitizers: everything that indexes memory, on inputs made to break it. Fixed seeds.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "babelrs/merge.hpp"
#include "babelrs/nms.hpp"
#include "babelrs/rotated.hpp"

namespace {

using babelrs::Box;
using babelrs::Rectangle;

// Plain asserts would vanish in a release build.
#define CHECK(condition)                                                           \
  do {                                                                             \
    if (!(condition)) {                                                            \
      std::fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                \
    }                                                                              \
  } while (false)

struct Scene {
  std::vector<double> boxes, scores;
  std::vector<std::int64_t> labels;

  std::size_t size() const { return scores.size(); }
  babelrs::Candidates candidates() const { return {boxes.data(), scores.data(), labels.data(), size()}; }
  Rectangle rectangle(std::size_t i) const {
    const double* row = &boxes[5 * i];
    return Rectangle(Box{row[0], row[1], row[2], row[3], row[4]});
  }
  void add(const Box& box, double score, std::int64_t label) {
    boxes.insert(boxes.end(), {box.cx, box.cy, box.w, box.h, box.theta});
    scores.push_back(score);
    labels.push_back(label);
  }
};

using Random = std::mt19937_64;

double uniform(Random& random, double low, double high) {
  return std::uniform_real_distribution<double>(low, high)(random);
}

// Sides from `smallest` to `largest` px, evenly over the decades.
Scene scattered(std::uint64_t seed, std::size_t count, double extent, double smallest, double largest) {
  Random random(seed);
  Scene scene;
  const auto side = [&] { return smallest * std::pow(largest / smallest, uniform(random, 0, 1)); };
  for (std::size_t i = 0; i < count; ++i) {
    const Box box{uniform(random, -extent, extent), uniform(random, -extent, extent), side(), side(),
                  uniform(random, -7, 7)};
    scene.add(box, std::floor(uniform(random, 0, 20)) / 20, static_cast<std::int64_t>(uniform(random, -2, 2)));
  }
  return scene;
}

// The definition of greedy suppression, with the head of every box.
babelrs::Suppression plain(const Scene& scene, double threshold) {
  std::vector<std::size_t> order(scene.size());
  for (std::size_t i = 0; i < order.size(); ++i) {
    std::size_t place = i;
    while (place > 0 && scene.scores[order[place - 1]] < scene.scores[i]) {
      order[place] = order[place - 1];
      --place;
    }
    order[place] = i;
  }
  babelrs::Suppression result;
  result.head_of.assign(scene.size(), -1);
  for (const std::size_t i : order) {
    for (std::size_t row = 0; row < result.kept.size() && result.head_of[i] < 0; ++row) {
      const auto head = static_cast<std::size_t>(result.kept[row]);
      if (scene.labels[head] != scene.labels[i]) continue;
      const double overlap = babelrs::intersection_over_union(scene.rectangle(head), scene.rectangle(i));
      if (overlap > threshold) result.head_of[i] = static_cast<std::int64_t>(row);
    }
    if (result.head_of[i] >= 0) continue;
    result.head_of[i] = static_cast<std::int64_t>(result.kept.size());
    result.kept.push_back(static_cast<std::int64_t>(i));
  }
  return result;
}

void check_against_definition(const Scene& scene) {
  for (const double threshold : {0.0, 0.05, 0.3, 0.7, 1.0}) {
    const babelrs::Suppression expected = plain(scene, threshold);
    for (const int threads : {1, 3}) {
      CHECK(babelrs::rotated_nms(scene.candidates(), threshold, threads) == expected.kept);
      const babelrs::Suppression found = babelrs::suppress(scene.candidates(), threshold, threads);
      CHECK(found.kept == expected.kept && found.head_of == expected.head_of);
    }
  }
}

void suppression_follows_its_definition() {
  check_against_definition({});
  check_against_definition(scattered(1, 1, 10, 1, 10));
  check_against_definition(scattered(2, 1500, 100, 2, 60));        // crowded
  check_against_definition(scattered(3, 1500, 1e4, 2, 60));        // sparse
  check_against_definition(scattered(4, 800, 50, 1e-6, 1e6));      // all sizes
  check_against_definition(scattered(5, 800, 1e6, 10, 1e5));       // far away
  check_against_definition(scattered(6, 400, 0, 5, 50));           // at one point
  check_against_definition(scattered(7, 400, 3e38, 1e-45, 3e38));  // the ends of float32
  check_against_definition(scattered(8, 400, 1e-40, 1e-45, 1e-38));
}

void mixed_magnitudes_are_found() {
  Scene scene = scattered(9, 600, 40, 2, 30);
  for (const double huge : {1e6, 1e20, 3e38}) {
    scene.add({huge, huge, 3, 2, 0.3}, 0.9, 0);
    scene.add({huge, huge, 3, 2, 0.3}, 0.8, 0);
    scene.add({0, 0, huge, huge, 0.1}, 0.85, 0);
    scene.add({0, 0, huge, 1e-3, 0.1}, 0.5, 1);
    scene.add({huge, 0, 2 * huge, 20, 0}, 0.7, 1);
  }
  for (const double flat : {0.0, 1e-300, 5e-324}) scene.add({1, 1, flat, 10, 0}, 0.95, 0);
  check_against_definition(scene);
}

// Diamonds that nearly fill a cell of the index, and touch tip to tip: neighbours at the greatest distance.
void the_farthest_neighbours_are_found() {
  Random random(12);
  Scene scene;
  for (int i = 0; i < 1500; ++i) {
    const double diagonal = 16 * (1 - 1e-9);
    const double side = diagonal / std::sqrt(2.0), quarter = 0.7853981633974483;
    const double x = std::floor(uniform(random, -12, 12)) * 15.9 + uniform(random, -0.1, 0.1);
    const double y = std::floor(uniform(random, -12, 12)) * 15.9 + uniform(random, -0.1, 0.1);
    scene.add({x, y, side, side, quarter}, uniform(random, 0, 1), 0);
  }
  check_against_definition(scene);
}

// Corners on and within rounding of the other box's sides: where a clipped polygon gets most corners.
void nearly_equal_boxes_stay_within_bounds() {
  Random random(10);
  for (int i = 0; i < 200000; ++i) {
    const double scale = std::pow(10, uniform(random, -12, 12)), thin = std::pow(10, uniform(random, -9, 0));
    const Box a{uniform(random, -1e6, 1e6), uniform(random, -1e6, 1e6), scale, scale * thin, uniform(random, -4, 4)};
    const double turn = std::floor(uniform(random, -4, 5)) * 0.7853981633974483 + uniform(random, -1, 1) * 1e-15;
    Box b{a.cx, a.cy, a.w, a.h, a.theta + turn};
    if (i % 3 == 0) b.cx += scale * uniform(random, -1e-15, 1e-15);
    if (i % 2 == 0) b.theta = a.theta + thin * uniform(random, -2, 2);  // as far as two thin boxes can turn
    if (i % 7 == 0) b.cy += scale * thin * uniform(random, -1, 1);
    if (i % 5 == 0) b.w *= 1 + uniform(random, -1e-15, 1e-15);
    const Rectangle left(a), right(b);
    const double overlap = babelrs::intersection_over_union(left, right);
    CHECK(overlap >= 0 && overlap <= 1);
    CHECK(babelrs::intersection_area(left, right) <= std::fmin(left.area, right.area));
    for (const double threshold : {0.0, 0.5, overlap, std::nextafter(overlap, 0.0), 1.0}) {
      CHECK(babelrs::overlaps_more(left, right, threshold) == (overlap > threshold));
    }
  }
}

// Boxes that share a strip hardly wider than rounding, at thresholds as small as their overlap: where the bound comes
// out below the clipped area, and only its margin keeps the two answers the same.
void slivers_are_judged_alike() {
  Random random(13);
  for (int i = 0; i < 200000; ++i) {
    const Box a{0, 0, uniform(random, 1, 4), uniform(random, 1, 4), uniform(random, -4, 4)};
    Box b{0, 0, uniform(random, 1, 4), uniform(random, 1, 4),
          a.theta + std::floor(uniform(random, -2, 3)) * 1.5707963267948966};
    const bool upright = std::abs(std::cos(b.theta - a.theta)) > 0.5;
    const double along = ((upright ? b.w : b.h) + a.w) / 2 - std::pow(10, uniform(random, -16, -6));
    const double across = uniform(random, -1, 1);
    b.cx = along * std::cos(a.theta) - across * std::sin(a.theta);
    b.cy = along * std::sin(a.theta) + across * std::cos(a.theta);
    const Rectangle left(a), right(b);
    const double overlap = babelrs::intersection_over_union(left, right);
    for (const double threshold : {overlap, std::nextafter(overlap, 0.0), overlap / 2}) {
      CHECK(babelrs::overlaps_more(left, right, threshold) == (overlap > threshold));
    }
  }
}

void early_answers_equal_the_full_computation() {
  const Scene scene = scattered(11, 1500, 300, 2, 400);
  for (std::size_t i = 0; i < scene.size(); ++i) {
    for (std::size_t j = 0; j < scene.size(); j += 3) {
      const Rectangle a = scene.rectangle(i), b = scene.rectangle(j);
      const double overlap = babelrs::intersection_over_union(a, b);
      for (const double threshold : {0.0, 0.1, 0.5, overlap}) {
        CHECK(babelrs::overlaps_more(a, b, threshold) == (overlap > threshold));
      }
    }
  }
}

void merging_keeps_lone_boxes_and_crosses_no_boundary() {
  Scene scene;
  scene.add({10, 10, 8, 4, -1.57}, 0.9, 0);
  scene.add({10, 12, 8, 4, 1.57}, 0.9, 0);
  scene.add({100, 10, 8, 4, 0.25}, 0.5, 0);
  const babelrs::Merged merged = babelrs::rotated_merge(scene.candidates(), 0.3);
  CHECK((merged.heads == std::vector<std::int64_t>{0, 2} && merged.clusters == std::vector<std::int64_t>{0, 0, 1}));
  CHECK(std::abs(merged.boxes[1] - 11) < 1e-12 && std::abs(merged.boxes[2] - 8) < 1e-12);
  CHECK(std::abs(std::cos(merged.boxes[4])) < 1e-12);  // upright, though the plain mean of the angles is 0
  const std::vector<double> lone(merged.boxes.begin() + 5, merged.boxes.end());
  CHECK((lone == std::vector<double>{100, 10, 8, 4, 0.25}));
}

void wrong_thresholds_are_refused() {
  for (const double threshold : {-0.1, 1.1, std::nan("")}) {
    try {
      babelrs::rotated_nms({nullptr, nullptr, nullptr, 0}, threshold);
      CHECK(false);
    } catch (const std::invalid_argument& error) {
      CHECK(std::string(error.what()).find("iou_threshold") != std::string::npos);
    }
  }
}

}  // namespace

int main() {
  suppression_follows_its_definition();
  mixed_magnitudes_are_found();
  the_farthest_neighbours_are_found();
  nearly_equal_boxes_stay_within_bounds();
  slivers_are_judged_alike();
  early_answers_equal_the_full_computation();
  merging_keeps_lone_boxes_and_crosses_no_boundary();
  wrong_thresholds_are_refused();
  std::puts("geometry: all passed");
}
