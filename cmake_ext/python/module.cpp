// Python binding: arrays in, arrays out, the GIL released while C++ works. babelrs.boxes checks the arguments.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

#include "babelrs/merge.hpp"
#include "babelrs/nms.hpp"
#include "babelrs/rotated.hpp"

namespace nb = nanobind;

namespace {

using Boxes = nb::ndarray<const double, nb::shape<-1, 5>, nb::c_contig, nb::device::cpu>;
using Scores = nb::ndarray<const double, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Labels = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T, std::size_t Dimensions>
using Result = nb::ndarray<nb::numpy, T, nb::ndim<Dimensions>>;

// A NumPy array that owns the vector it shows.
template <typename T, std::size_t Dimensions>
Result<T, Dimensions> to_numpy(std::vector<T>&& values, std::initializer_list<std::size_t> shape) {
  auto* owned = new std::vector<T>(std::move(values));
  nb::capsule owner(owned, [](void* pointer) noexcept { delete static_cast<std::vector<T>*>(pointer); });
  return Result<T, Dimensions>(owned->data(), shape, owner);
}

template <double (*Overlap)(const babelrs::Rectangle&, const babelrs::Rectangle&)>
Result<double, 2> pairwise(const Boxes& a, const Boxes& b) {
  std::vector<double> table;
  {
    nb::gil_scoped_release release;
    const auto rows = babelrs::prepare(a.data(), a.shape(0)), columns = babelrs::prepare(b.data(), b.shape(0));
    table.reserve(rows.size() * columns.size());
    for (const auto& row : rows) {
      for (const auto& column : columns) table.push_back(Overlap(row, column));
    }
  }
  return to_numpy<double, 2>(std::move(table), {a.shape(0), b.shape(0)});
}

template <double (*Overlap)(const babelrs::Rectangle&, const babelrs::Rectangle&)>
Result<double, 1> paired(const Boxes& a, const Boxes& b) {
  if (a.shape(0) != b.shape(0)) throw std::invalid_argument("a and b must have the same number of boxes");
  std::vector<double> values;
  {
    nb::gil_scoped_release release;
    const auto left = babelrs::prepare(a.data(), a.shape(0)), right = babelrs::prepare(b.data(), b.shape(0));
    values.reserve(left.size());
    for (std::size_t i = 0; i < left.size(); ++i) values.push_back(Overlap(left[i], right[i]));
  }
  return to_numpy<double, 1>(std::move(values), {a.shape(0)});
}

babelrs::Candidates candidates(const Boxes& boxes, const Scores& scores, const Labels& labels) {
  if (scores.shape(0) != boxes.shape(0) || labels.shape(0) != boxes.shape(0)) {
    throw std::invalid_argument("boxes, scores and labels must have the same length");
  }
  return {boxes.data(), scores.data(), labels.data(), boxes.shape(0)};
}

Result<std::int64_t, 1> nms(const Boxes& boxes, const Scores& scores, const Labels& labels, double iou_threshold,
                            int threads) {
  const babelrs::Candidates input = candidates(boxes, scores, labels);
  std::vector<std::int64_t> kept;
  {
    nb::gil_scoped_release release;
    kept = babelrs::rotated_nms(input, iou_threshold, threads);
  }
  const std::size_t count = kept.size();
  return to_numpy<std::int64_t, 1>(std::move(kept), {count});
}

nb::tuple merge(const Boxes& boxes, const Scores& scores, const Labels& labels, double iou_threshold, int threads) {
  const babelrs::Candidates input = candidates(boxes, scores, labels);
  babelrs::Merged merged;
  {
    nb::gil_scoped_release release;
    merged = babelrs::rotated_merge(input, iou_threshold, threads);
  }
  const std::size_t count = merged.heads.size();
  return nb::make_tuple(to_numpy<double, 2>(std::move(merged.boxes), {count, 5}),
                        to_numpy<std::int64_t, 1>(std::move(merged.heads), {count}),
                        to_numpy<std::int64_t, 1>(std::move(merged.clusters), {input.count}));
}

}  // namespace

NB_MODULE(_native, module) {
  module.doc() = "CPU geometry of rotated boxes; call it through babelrs.boxes, which checks the arguments.";
  module.def("pairwise_intersection", &pairwise<babelrs::intersection_area>, nb::arg("a"), nb::arg("b"),
             "(N, 5), (M, 5) float64 -> (N, M) float64 shared area in px^2.");
  module.def("pairwise_iou", &pairwise<babelrs::intersection_over_union>, nb::arg("a"), nb::arg("b"),
             "(N, 5), (M, 5) float64 -> (N, M) float64 intersection over union.");
  module.def("paired_iou", &paired<babelrs::intersection_over_union>, nb::arg("a"), nb::arg("b"),
             "(N, 5), (N, 5) float64 -> (N,) float64 intersection over union, row by row.");
  module.def("rotated_nms", &nms, nb::arg("boxes"), nb::arg("scores"), nb::arg("labels"), nb::arg("iou_threshold"),
             nb::arg("threads"), "Kept indices (K,) int64 by descending score, ties by index.");
  module.def("rotated_merge", &merge, nb::arg("boxes"), nb::arg("scores"), nb::arg("labels"),
             nb::arg("iou_threshold"), nb::arg("threads"),
             "Merged boxes (K, 5) float64, their heads (K,) int64, and the cluster (N,) int64 of every box.");
}
