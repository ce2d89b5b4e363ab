// Hidden layers that are normalised over their units and then go through SiLU: see products.py. After products.h.
//
// What follows the product needs whole rows: it is done with some of them at a time, which are in the nearest cache.

namespace gumbelrl {

constexpr int64_t NEAR = 48;  // rows
constexpr int SIDE_BY_SIDE = 4;  // of those: each waits for sums over its columns

// The logistic function, by the hyperbolic tangent.
inline Vector logistic(const Vector& x) { return at::vec::fmadd(Vector(.5f), tanh_of(x * Vector(.5f)), Vector(.5f)); }

// Calls `each` with where a vector of a row begins, and how many numbers it has.
template <typename Each>
inline void along(int64_t columns, const Each& each) {
  int64_t at = 0;
  for (; at + Vector::size() <= columns; at += Vector::size()) each(at, int64_t(Vector::size()));
  if (at < columns) each(at, columns - at);
}

template <int ROWS>
struct Sums {  // of a number in each row
  Vector parts[ROWS];
  Sums() {
    for (Vector& each : parts) each = Vector(0.f);
  }
  void add(int row, const Vector& x, int64_t wide) {
    parts[row] = parts[row] + (wide == Vector::size() ? x : Vector::set(Vector(0.f), x, wide));
  }
  float operator[](int row) const {
    return at::vec::vec_reduce_all<float>([](Vector& x, Vector& y) { return x + y; }, parts[row]);
  }
};

// out = a b, and then `finish` of its rows, some at a time.
template <typename Finish>
void multiply_rows(const Matrices& out, const Matrices& a, const Matrices& b, const Finish& finish) {
  static thread_local std::vector<float> room;
  const int64_t rows = a.sizes[1], inner = a.sizes[2], columns = b.sizes[2];
  const bool by_rows = b.strides[2] == 1;
  const int64_t b_down = by_rows ? b.strides[1] : columns;
  for (int64_t member = 0; member < a.sizes[0]; member++) {
    const float* right = b.at(member, 0, 0);
    if (!by_rows) {
      turn(right, b.strides[2], inner, columns, room);
      right = room.data();
    }
    for (int64_t row = 0; row < rows; row += NEAR) {
      const int64_t last = std::min(row + NEAR, rows);
      for (int64_t at = 0; at < inner; at += AT_A_TIME) {
        const Part part = {
            .out = out.at(member, row, 0),
            .total = nullptr,
            .a = a.at(member, row, at),
            .b = right + at * b_down,
            .other = nullptr,
            .out_down = out.strides[1],
            .a_down = a.strides[1],
            .a_next = a.strides[2],
            .b_down = b_down,
            .other_down = 0,
            .rows = last - row,
            .inner = std::min(AT_A_TIME, inner - at),
            .columns = columns,
            .further = at > 0,
        };
        compute(part, Nothing());
      }
      int64_t i = row;
      for (; i + SIDE_BY_SIDE <= last; i += SIDE_BY_SIDE) finish.template rows<SIDE_BY_SIDE>(member, i);
      for (; i < last; i++) finish.template rows<1>(member, i);
    }
  }
}

// out [member, row, column] = silu(normalised(out + bias)). With KEPT in as many rows below it what was normalised, and
// in those below them by what the deviations were multiplied, one number after another.
template <bool KEPT>
struct Normalise {
  const Matrices &out, &bias;
  int64_t height, columns;
  float epsilon;

  template <int ROWS>
  void rows(int64_t member, int64_t first) const {
    const int64_t down = out.strides[1];
    float *row = out.at(member, first, 0), mean[ROWS], scale[ROWS];
    const float* add = bias.at(member, 0, 0);
    Sums<ROWS> sums, squares;
    along(columns, [&](int64_t at, int64_t wide) {
      const Vector shift = Vector::loadu(add + at, wide);
#pragma GCC unroll 4
      for (int i = 0; i < ROWS; i++) {
        const Vector x = Vector::loadu(row + i * down + at, wide) + shift;
        x.store(row + i * down + at, wide);
        sums.add(i, x, wide);
      }
    });
    for (int i = 0; i < ROWS; i++) mean[i] = sums[i] / columns;
    along(columns, [&](int64_t at, int64_t wide) {
#pragma GCC unroll 4
      for (int i = 0; i < ROWS; i++) {
        const Vector apart = Vector::loadu(row + i * down + at, wide) - Vector(mean[i]);
        squares.add(i, apart * apart, wide);
      }
    });
    for (int i = 0; i < ROWS; i++) scale[i] = squares[i] / columns;
    (Vector::loadu(scale, ROWS) + Vector(epsilon)).rsqrt().store(scale, ROWS);
    along(columns, [&](int64_t at, int64_t wide) {
#pragma GCC unroll 4
      for (int i = 0; i < ROWS; i++) {
        float* to = row + i * down + at;
        const Vector x = (Vector::loadu(to, wide) - Vector(mean[i])) * Vector(scale[i]);
        if (KEPT) x.store(to + height * down, wide);
        (x * logistic(x)).store(to, wide);
      }
    });
    if (KEPT) std::copy_n(scale, ROWS, out.at(member, 2 * height, 0) + first);
  }
};

// From slopes by what SiLU returned to slopes by what was normalised; `kept` as above.
struct Back {
  const Matrices &out, &kept;
  int64_t height, columns;

  template <int ROWS>
  void rows(int64_t member, int64_t first) const {
    const int64_t down = out.strides[1], kept_down = kept.strides[1];
    float *row = out.at(member, first, 0), mean[ROWS], along_x[ROWS];
    const float *normalised = kept.at(member, height + first, 0), *scale = kept.at(member, 2 * height, 0) + first;
    Sums<ROWS> sums, products;
    along(columns, [&](int64_t at, int64_t wide) {
#pragma GCC unroll 4
      for (int i = 0; i < ROWS; i++) {
        float* to = row + i * down + at;
        const Vector x = Vector::loadu(normalised + i * kept_down + at, wide), share = logistic(x);
        const Vector slope = Vector::loadu(to, wide) * share * at::vec::fmadd(x, Vector(1.f) - share, Vector(1.f));
        slope.store(to, wide);
        sums.add(i, slope, wide);
        products.add(i, slope * x, wide);
      }
    });
    for (int i = 0; i < ROWS; i++) mean[i] = sums[i] / columns, along_x[i] = products[i] / columns;
    along(columns, [&](int64_t at, int64_t wide) {
#pragma GCC unroll 4
      for (int i = 0; i < ROWS; i++) {
        float* to = row + i * down + at;
        const float* from = normalised + i * kept_down;
        const Vector slanted = Vector::loadu(from + at, wide) * Vector(along_x[i]);
        const Vector apart = Vector::loadu(to, wide) - Vector(mean[i]) - slanted;
        (apart * Vector(scale[i])).store(to, wide);
      }
    });
  }
};

// What follows is named as the operators are: see products.py, and of templates products.h.

template <typename M>
void bmm_norm_silu(const M& out, const M& a, const M& b, const M& bias, float epsilon) {
  multiply_rows(out, a, b, Normalise<false>{out, bias, a.sizes[1], b.sizes[2], epsilon});
}

template <typename M>
void bmm_norm_silu_kept(const M& out, const M& a, const M& b, const M& bias,
                               float epsilon) {
  const int64_t rows = a.sizes[1];
  multiply_rows(out, a, b, Normalise<true>{out, bias, rows, b.sizes[2], epsilon});
  for (int64_t member = 0; member < a.sizes[0]; member++)
    std::fill(out.at(member, 2 * rows, 0) + rows, out.at(member, out.sizes[1], 0), 0.f);
}

template <typename M>
void bmm_norm_silu_backward(const M& out, const M& a, const M& b, const M& kept) {
  multiply_rows(out, a, b, Back{out, kept, a.sizes[1], b.sizes[2]});
}

}  // namespace gumbelrl
