// Exact overlap of rotated rectangles, in float64 on the CPU.
#pragma once

#include <cstddef>
#include <vector>

namespace babelrs {

// A rotated rectangle as callers store it: centre and sides in pixels, `theta` in radians, clockwise with y down.
struct Box {
  double cx, cy, w, h, theta;
};

// The same rectangle with what every overlap test needs, computed once a box instead of once a pair.
struct Rectangle {
  double cx, cy;            // centre
  double half_w, half_h;    // half sides
  double cosine, sine;      // of theta
  double radius;            // of the circumscribed circle
  double area;

  explicit Rectangle(const Box& box);
};

// Rectangles of `count` boxes stored as rows of five doubles.
std::vector<Rectangle> prepare(const double* boxes, std::size_t count);

// Area in px^2 that two rectangles share; in [0, min(area)], never NaN for finite input.
double intersection_area(const Rectangle& a, const Rectangle& b);

// Intersection over union in [0, 1]; 0 where the union has no area.
double intersection_over_union(const Rectangle& a, const Rectangle& b);

// `intersection_over_union(a, b) > threshold`, the very same answer, mostly without computing it.
// `threshold` lies in [0, 1].
bool overlaps_more(const Rectangle& a, const Rectangle& b, double threshold);

// Whether areas alone say that two boxes cannot have an intersection over union above `threshold`.
inline bool areas_differ_too_much(double smaller, double larger, double threshold) {
  return smaller < threshold * larger * (1 - 1e-9);  // the margin covers every rounding of the full computation
}

}  // namespace babelrs
