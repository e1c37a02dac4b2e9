#include "babelrs/rotated.hpp"

#include <algorithm>
#include <cmath>

namespace babelrs {
namespace {

struct Point {
  double x, y;
};

// Four half-planes make at most eight corners out of four, in exact arithmetic. Rounding can make the depths of
// nearly collinear corners alternate in sign; then a cut gives at most half as many corners again: 4, 6, 9, 13, 19.
struct Polygon {
  Point points[20];
  int size = 0;

  void push(const Point& point) { points[size++] = point; }
};

// Keeps the part of `polygon` on the inner side of one edge of an axis-aligned rectangle:
// sign * coordinate <= limit. The division is safe: it happens only when the two ends differ.
template <double Point::*Along, double Point::*Across>
void clip(const Polygon& polygon, double sign, double limit, Polygon& kept) {
  kept.size = 0;
  for (int i = 0; i < polygon.size; ++i) {
    const Point& from = polygon.points[i];
    const Point& to = polygon.points[i + 1 < polygon.size ? i + 1 : 0];
    const double from_depth = limit - sign * (from.*Along);
    const double to_depth = limit - sign * (to.*Along);
    if (from_depth >= 0) kept.push(from);
    if ((from_depth >= 0) != (to_depth >= 0)) {
      const double fraction = from_depth / (from_depth - to_depth);
      Point crossing;
      crossing.*Along = sign * limit;
      crossing.*Across = from.*Across + fraction * (to.*Across - from.*Across);
      kept.push(crossing);
    }
  }
}

// Shoelace formula about the first corner, where the products stay small.
double polygon_area(const Polygon& polygon) {
  double doubled = 0;
  for (int i = 1; i + 1 < polygon.size; ++i) {
    const Point &origin = polygon.points[0], &p = polygon.points[i], &q = polygon.points[i + 1];
    doubled += (p.x - origin.x) * (q.y - origin.y) - (q.x - origin.x) * (p.y - origin.y);
  }
  return std::abs(doubled) / 2;
}

// How `a` lies in the frame where `b` is centred on the origin and axis-aligned. Differences of centres come
// first, so boxes far from the image origin lose no precision.
struct Pose {
  Point centre;
  double cosine, sine;  // of the relative angle
  double reach_x, reach_y;  // half the sides of the axis-aligned box around `a`

  Pose(const Rectangle& a, const Rectangle& b) {
    const double dx = a.cx - b.cx, dy = a.cy - b.cy;
    centre = {b.cosine * dx + b.sine * dy, b.cosine * dy - b.sine * dx};
    cosine = a.cosine * b.cosine + a.sine * b.sine;
    sine = a.sine * b.cosine - a.cosine * b.sine;
    reach_x = std::abs(cosine) * a.half_w + std::abs(sine) * a.half_h;
    reach_y = std::abs(sine) * a.half_w + std::abs(cosine) * a.half_h;
  }
};

// Area that the axis-aligned box around a turned rectangle, at (x, y), shares with an axis-aligned rectangle about
// the origin: at least what the two rectangles share, up to rounding. Below 0 where an axis separates them.
double shared_bound(double x, double y, double reach_x, double reach_y, double half_w, double half_h) {
  const double width = std::min(half_w, x + reach_x) - std::max(-half_w, x - reach_x);
  const double height = std::min(half_h, y + reach_y) - std::max(-half_h, y - reach_y);
  return width < 0 || height < 0 ? -1 : width * height;
}

// The bound seen along the sides of `b`, and seen along those of `a`: below 0 from either means that they are apart.
double bound_along_b(const Pose& pose, const Rectangle& b) {
  return shared_bound(pose.centre.x, pose.centre.y, pose.reach_x, pose.reach_y, b.half_w, b.half_h);
}

double bound_along_a(const Pose& pose, const Rectangle& a, const Rectangle& b) {
  const double c = std::abs(pose.cosine), s = std::abs(pose.sine);
  const double x = pose.cosine * pose.centre.x + pose.sine * pose.centre.y;
  const double y = pose.cosine * pose.centre.y - pose.sine * pose.centre.x;
  return shared_bound(x, y, c * b.half_w + s * b.half_h, s * b.half_w + c * b.half_h, a.half_w, a.half_h);
}

void corners_of(const Rectangle& a, const Pose& pose, Polygon& corners) {
  const Point centre = pose.centre;
  const Point u{pose.cosine * a.half_w, pose.sine * a.half_w}, v{-pose.sine * a.half_h, pose.cosine * a.half_h};
  corners.push({centre.x - u.x - v.x, centre.y - u.y - v.y});
  corners.push({centre.x + u.x - v.x, centre.y + u.y - v.y});
  corners.push({centre.x + u.x + v.x, centre.y + u.y + v.y});
  corners.push({centre.x - u.x + v.x, centre.y - u.y + v.y});
}

// A polygon that is cut in place, between two buffers.
class Cutter {
 public:
  Polygon& polygon() { return buffers_[now_]; }

  template <double Point::*Along, double Point::*Across>
  void cut(double sign, double limit) {
    clip<Along, Across>(buffers_[now_], sign, limit, buffers_[1 - now_]);
    now_ = 1 - now_;
  }

 private:
  Polygon buffers_[2];
  int now_ = 0;
};

// Clips `a` by the sides of `b` that it crosses.
double clipped_area(const Rectangle& a, const Rectangle& b, const Pose& pose) {
  Cutter cutter;
  corners_of(a, pose, cutter.polygon());
  if (pose.centre.x + pose.reach_x > b.half_w) cutter.cut<&Point::x, &Point::y>(1, b.half_w);
  if (pose.centre.x - pose.reach_x < -b.half_w) cutter.cut<&Point::x, &Point::y>(-1, b.half_w);
  if (pose.centre.y + pose.reach_y > b.half_h) cutter.cut<&Point::y, &Point::x>(1, b.half_h);
  if (pose.centre.y - pose.reach_y < -b.half_h) cutter.cut<&Point::y, &Point::x>(-1, b.half_h);
  return std::min({polygon_area(cutter.polygon()), a.area, b.area});
}

double over_union(double intersection, const Rectangle& a, const Rectangle& b) {
  const double united = a.area + b.area - intersection;
  return united > 0 ? std::min(intersection / united, 1.0) : 0.0;
}

// Circles apart, or no area: nothing is shared.
bool surely_apart(const Rectangle& a, const Rectangle& b) {
  const double dx = a.cx - b.cx, dy = a.cy - b.cy, reach = a.radius + b.radius;
  return dx * dx + dy * dy > reach * reach || a.area == 0 || b.area == 0;
}

}  // namespace

Rectangle::Rectangle(const Box& box)
    : cx(box.cx),
      cy(box.cy),
      half_w(box.w / 2),
      half_h(box.h / 2),
      cosine(std::cos(box.theta)),
      sine(std::sin(box.theta)),
      radius(std::hypot(box.w, box.h) / 2),
      area(box.w * box.h) {}

std::vector<Rectangle> prepare(const double* boxes, std::size_t count) {
  std::vector<Rectangle> rectangles;
  rectangles.reserve(count);
  for (const double* row = boxes; row != boxes + 5 * count; row += 5) {
    rectangles.emplace_back(Box{row[0], row[1], row[2], row[3], row[4]});
  }
  return rectangles;
}

double intersection_area(const Rectangle& a, const Rectangle& b) {
  if (surely_apart(a, b)) return 0;
  const Pose pose(a, b);
  if (bound_along_b(pose, b) < 0 || bound_along_a(pose, a, b) < 0) return 0;
  return clipped_area(a, b, pose);
}

double intersection_over_union(const Rectangle& a, const Rectangle& b) {
  return over_union(intersection_area(a, b), a, b);
}

bool overlaps_more(const Rectangle& a, const Rectangle& b, double threshold) {
  if (surely_apart(a, b)) return false;
  if (areas_differ_too_much(std::min(a.area, b.area), std::max(a.area, b.area), threshold)) return false;
  const Pose pose(a, b);
  const double along_b = bound_along_b(pose, b);
  if (along_b < 0) return false;
  const double along_a = bound_along_a(pose, a, b);
  if (along_a < 0) return false;
  // Rounding moves a corner by a few 1e-16 of the reach, so the clipped area by less than 1e-13 of its square.
  const double reach = a.radius + b.radius;
  const double most = std::min(along_a, along_b) + 1e-12 * reach * reach;
  if (most < threshold * (a.area + b.area - most) * (1 - 1e-9)) return false;
  return over_union(clipped_area(a, b, pose), a, b) > threshold;
}

}  // namespace babelrs
