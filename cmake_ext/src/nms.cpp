#include "babelrs/nms.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "babelrs/head_index.hpp"
#include "babelrs/parallel.hpp"
#include "babelrs/rotated.hpp"

namespace babelrs {
namespace {

// Boxes looked up in parallel against the heads found before them, then settled among themselves in order: at least
// this many at once, and later a share of those done, which leaves few to settle and few threads to start.
constexpr std::size_t kSmallestBatch = 1024, kBatchShare = 4;
constexpr std::int32_t kUnknown = HeadIndex::kNone;

std::vector<std::int32_t> by_descending_score(const double* scores, std::size_t count) {
  std::vector<std::pair<double, std::int32_t>> ranked(count);
  for (std::size_t i = 0; i < count; ++i) ranked[i] = {-scores[i], static_cast<std::int32_t>(i)};
  std::sort(ranked.begin(), ranked.end());
  std::vector<std::int32_t> order(count);
  std::transform(ranked.begin(), ranked.end(), order.begin(), [](const auto& entry) { return entry.second; });
  return order;
}

// Labels as 0, 1, ..., and their number.
std::pair<std::vector<std::int32_t>, std::size_t> numbered_classes(const std::int64_t* labels, std::size_t count) {
  std::vector<std::int64_t> known(labels, labels + count);
  std::sort(known.begin(), known.end());
  known.erase(std::unique(known.begin(), known.end()), known.end());
  std::vector<std::int32_t> numbers(count);
  std::transform(labels, labels + count, numbers.begin(), [&](std::int64_t label) {
    return static_cast<std::int32_t>(std::lower_bound(known.begin(), known.end(), label) - known.begin());
  });
  return {std::move(numbers), known.size()};
}

// The greedy pass: every box, by rank, gets the number of its head.
class Pass {
 public:
  Pass(const Candidates& candidates, double iou_threshold, bool best)
      : candidates_(candidates),
        best_(best),
        order_(by_descending_score(candidates.scores, candidates.count)),
        classes_(numbered_classes(candidates.labels, candidates.count)),
        index_(candidates.count, classes_.second, iou_threshold) {
    result_.head_of.assign(candidates.count, kUnknown);
  }

  Suppression run(int threads) {
    for (std::size_t begin = 0, end = 0; begin < candidates_.count; begin = end) {
      const std::size_t batch = threads > 1 ? std::max(kSmallestBatch, begin / kBatchShare) : candidates_.count;
      end = std::min(begin + batch, candidates_.count);
      const std::int32_t settled = index_.size();
      if (settled > 0) look_up(begin, end, threads);
      for (std::size_t rank = begin; rank < end; ++rank) settle(order_[rank], settled);
    }
    return std::move(result_);
  }

 private:
  Rectangle box(std::size_t index) const {
    const double* row = candidates_.boxes + 5 * index;
    return Rectangle(Box{row[0], row[1], row[2], row[3], row[4]});
  }

  void look_up(std::size_t begin, std::size_t end, int threads) {
    parallel_for(end - begin, threads, [&](std::size_t from, std::size_t to) {
      for (std::size_t rank = begin + from; rank < begin + to; ++rank) {
        const auto index = static_cast<std::size_t>(order_[rank]);
        result_.head_of[index] = number_of_row(index_.find(box(index), classes_.first[index], 0, best_));
      }
    });
  }

  // Boxes without area overlap nothing: they are kept and need no place in the index.
  void settle(std::int32_t position, std::int32_t since) {
    const auto index = static_cast<std::size_t>(position);
    if (result_.head_of[index] != kUnknown) return;
    const Rectangle candidate = box(index);
    const std::int32_t found = index_.find(candidate, classes_.first[index], since, best_);
    result_.head_of[index] = number_of_row(found);
    if (found != HeadIndex::kNone) return;
    result_.head_of[index] = static_cast<std::int64_t>(result_.kept.size());
    result_.kept.push_back(position);
    if (candidate.area == 0) return;
    index_.insert(candidate, classes_.first[index]);
    rows_.push_back(result_.head_of[index]);
  }

  std::int64_t number_of_row(std::int32_t head) const {
    return head == HeadIndex::kNone ? kUnknown : rows_[static_cast<std::size_t>(head)];
  }

  Candidates candidates_;
  bool best_;
  std::vector<std::int32_t> order_;
  std::pair<std::vector<std::int32_t>, std::size_t> classes_;
  HeadIndex index_;
  std::vector<std::int64_t> rows_;  // of the heads in the index, in `kept`
  Suppression result_;
};

Suppression pass(const Candidates& candidates, double iou_threshold, int threads, bool best) {
  if (!(iou_threshold >= 0 && iou_threshold <= 1)) throw std::invalid_argument("iou_threshold must lie in [0, 1]");
  if (candidates.count > INT32_MAX) throw std::invalid_argument("boxes: fewer than 2^31 rows expected");
  return Pass(candidates, iou_threshold, best).run(threads);
}

}  // namespace

std::vector<std::int64_t> rotated_nms(const Candidates& candidates, double iou_threshold, int threads) {
  return pass(candidates, iou_threshold, threads, false).kept;
}

Suppression suppress(const Candidates& candidates, double iou_threshold, int threads) {
  return pass(candidates, iou_threshold, threads, true);
}

}  // namespace babelrs
