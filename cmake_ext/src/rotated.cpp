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
Polygon clip(const Polygon& polygon, double sign, double limit) {
  Polygon kept;
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
  return kept;
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

// The corners of `a` in the frame where `b` is centred on the origin and axis-aligned. Differences of
// centres come first, so boxes far from the image origin lose no precision.
Polygon corners_in_frame(const Rectangle& a, const Rectangle& b) {
  const double dx = a.cx - b.cx, dy = a.cy - b.cy;
  const Point centre{b.cosine * dx + b.sine * dy, b.cosine * dy - b.sine * dx};
  const double cosine = a.cosine * b.cosine + a.sine * b.sine;  // of the relative angle
  const double sine = a.sine * b.cosine - a.cosine * b.sine;
  const Point u{cosine * a.half_w, sine * a.half_w}, v{-sine * a.half_h, cosine * a.half_h};
  Polygon corners;
  corners.push({centre.x - u.x - v.x, centre.y - u.y - v.y});
  corners.push({centre.x + u.x - v.x, centre.y + u.y - v.y});
  corners.push({centre.x + u.x + v.x, centre.y + u.y + v.y});
  corners.push({centre.x - u.x + v.x, centre.y - u.y + v.y});
  return corners;
}

bool surely_apart(const Rectangle& a, const Rectangle& b) {
  const double dx = a.cx - b.cx, dy = a.cy - b.cy, reach = a.radius + b.radius;
  return dx * dx + dy * dy > reach * reach;
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
  if (surely_apart(a, b) || a.area == 0 || b.area == 0) return 0;
  Polygon polygon = corners_in_frame(a, b);
  polygon = clip<&Point::x, &Point::y>(polygon, 1, b.half_w);
  polygon = clip<&Point::x, &Point::y>(polygon, -1, b.half_w);
  polygon = clip<&Point::y, &Point::x>(polygon, 1, b.half_h);
  polygon = clip<&Point::y, &Point::x>(polygon, -1, b.half_h);
  return std::min({polygon_area(polygon), a.area, b.area});
}

double intersection_over_union(const Rectangle& a, const Rectangle& b) {
  const double intersection = intersection_area(a, b);
  const double united = a.area + b.area - intersection;
  return united > 0 ? std::min(intersection / united, 1.0) : 0.0;
}

}  // namespace babelrs
