// Products of float32 matrices in the C++ that inductor writes, by oneDNN's kernels, and what a network does with them:
// see products.py.
//
// The kernels read both matrices row by row. One that lies column by column is turned round, by parts that stay in a
// cache; but for the gradient of weights, the product of a turned batch and another, there is a kernel here.

#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <algorithm>
#include <array>
#include <type_traits>
#include <vector>

namespace at::native::cpublas {  // as in ATen/native/CPUBlas.h
TORCH_API void brgemm(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, bool, const float*, const float*, float*,
                      bool);
}

namespace gumbelrl {

constexpr int64_t AT_A_TIME = 256;  // rows and columns of a part
constexpr int64_t NEAR = 32;        // rows of one that is still in the nearest cache
constexpr int64_t FEW = 4;

struct Rows {
  const float* first;
  int64_t apart;
};

struct Matrices {  // one for each member
  Matrices(AtenTensorHandle tensor, int64_t offset, std::array<int64_t, 3> sizes, std::array<int64_t, 3> strides)
      : sizes(sizes), strides(strides) {
    void* found = nullptr;
    AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_get_data_ptr(tensor, &found));
    data = static_cast<float*>(found) + offset;
  }

  bool by_rows() const { return strides[2] == 1 && (sizes[1] == 1 || strides[1] >= sizes[2]); }

  // Return so many rows and columns from one on, turned round in `room` if need be.
  Rows part(int64_t member, int64_t row, int64_t column, int64_t rows, int64_t columns, std::vector<float>& room) const {
    const float* from = at(member, row, column);
    if (by_rows()) return {from, std::max(strides[1], columns)};
    room.resize(std::max<size_t>(room.size(), rows * columns));
    if (std::min(rows, columns) >= 8) {  // torch's, in blocks of vectors
      at::vec::transpose_mxn<float>(from, strides[2], room.data(), columns, columns, rows);
    } else {
      for (int64_t i = 0; i < columns; i++)
        for (int64_t j = 0; j < rows; j++) room[j * columns + i] = from[i * strides[2] + j];
    }
    return {room.data(), columns};
  }

  float* at(int64_t member, int64_t row, int64_t column) const {
    return data + member * strides[0] + row * strides[1] + column * strides[2];
  }

  float* data;
  std::array<int64_t, 3> sizes, strides;
};

// Products of rows, which both matrices are to be summed along: for a few rows of `a`, which are copied if they do not
// lie so, cheaper than to turn `b` round.
inline void dots(const Matrices& out, const Matrices& a, const Matrices& b) {
  using Vector = at::vec::Vectorized<float>;
  static thread_local std::vector<float> room;
  const int64_t members = a.sizes[0], rows = a.sizes[1], inner = a.sizes[2], columns = b.sizes[2];
  room.resize(std::max<size_t>(room.size(), inner));
  for (int64_t member = 0; member < members; member++)
    for (int64_t row = 0; row < rows; row++) {
      const float* left = a.at(member, row, 0);
      float* to = out.at(member, row, 0);
      if (a.strides[2] != 1) {
        for (int64_t at = 0; at < inner; at++) room[at] = left[at * a.strides[2]];
        left = room.data();
      }
      for (int64_t column = 0; column < columns; column++) {
        const float* right = b.at(member, 0, column);
        Vector sums(0.f);
        int64_t at = 0;
        for (; at + Vector::size() <= inner; at += Vector::size())
          sums = at::vec::fmadd(Vector::loadu(left + at), Vector::loadu(right + at), sums);
        float sum = at::vec::vec_reduce_all<float>([](Vector& x, Vector& y) { return x + y; }, sums);
        for (; at < inner; at++) sum += left[at] * right[at];
        *to++ = sum;
      }
    }
}

// So many rows and vectors of `out`, which stay in registers while `a` and `b` are read row by row.
template <int ROWS, int VECTORS>
void block(float* out, int64_t apart, const float* a, int64_t next_a, const float* b, int64_t next_b, int64_t inner,
           bool further) {
  using Vector = at::vec::Vectorized<float>;
  Vector sums[ROWS][VECTORS], right[VECTORS];
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 8
    for (int j = 0; j < VECTORS; j++)
      sums[i][j] = further ? Vector::loadu(out + i * apart + j * Vector::size()) : Vector(0.f);
  for (int64_t at = 0; at < inner; at++, a += next_a, b += next_b) {
#pragma GCC unroll 8
    for (int j = 0; j < VECTORS; j++) right[j] = Vector::loadu(b + j * Vector::size());
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 8
      for (int j = 0; j < VECTORS; j++) sums[i][j] = at::vec::fmadd(Vector(a[i]), right[j], sums[i][j]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 8
    for (int j = 0; j < VECTORS; j++) sums[i][j].store(out + i * apart + j * Vector::size());
}

template <int VECTORS>
void blocks(float* out, int64_t apart, const float* a, int64_t next_a, const float* b, int64_t next_b, int64_t inner,
            bool further, int64_t rows) {
  int64_t row = 0;
  for (; row + 6 <= rows; row += 6)
    block<6, VECTORS>(out + row * apart, apart, a + row, next_a, b, next_b, inner, further);
  for (; row + 2 <= rows; row += 2)
    block<2, VECTORS>(out + row * apart, apart, a + row, next_a, b, next_b, inner, further);
  for (; row < rows; row++)
    block<1, VECTORS>(out + row * apart, apart, a + row, next_a, b, next_b, inner, further);
}

// The product where `a` lies column by column and `b` row by row, in whole vectors, as a sum over what both are summed
// along: nothing has to be turned round.
inline void outer_products(const Matrices& out, const Matrices& a, const Matrices& b) {
  constexpr int64_t ONE = at::vec::Vectorized<float>::size(), MORE = 4 * ONE;
  const int64_t members = a.sizes[0], rows = a.sizes[1], inner = a.sizes[2], columns = b.sizes[2];
  for (int64_t member = 0; member < members; member++)
    for (int64_t at = 0; at < inner; at += AT_A_TIME) {
      const int64_t summed = std::min(AT_A_TIME, inner - at);
      const float *left = a.at(member, 0, at), *right = b.at(member, at, 0);
      float* to = out.at(member, 0, 0);
      int64_t column = 0;
      for (; column + MORE <= columns; column += MORE)
        blocks<4>(to + column, out.strides[1], left, a.strides[2], right + column, b.strides[1], summed, at > 0, rows);
      for (; column < columns; column += ONE)
        blocks<1>(to + column, out.strides[1], left, a.strides[2], right + column, b.strides[1], summed, at > 0, rows);
    }
}

// Does `each` with so many rows and columns of a product, whose parts are there, and of another matrix: with a vector of
// both, for a new one. A matrix of one row is taken for every row.
template <typename Each>
void finish(const Matrices& out, const Matrices& other, const Each& each, int64_t member, int64_t row, int64_t column,
            int64_t rows, int64_t columns) {
  using Vector = at::vec::Vectorized<float>;
  const int64_t whole = columns / Vector::size() * Vector::size();
  for (int64_t i = row; i < row + rows; i++) {
    float* to = out.at(member, i, column);
    const float* with = other.at(member, other.sizes[1] == 1 ? 0 : i, column);
    int64_t at = 0;
    for (; at < whole; at += Vector::size()) each(Vector::loadu(to + at), Vector::loadu(with + at)).store(to + at);
    if (const int64_t left = columns - at)
      each(Vector::loadu(to + at, left), Vector::loadu(with + at, left)).store(to + at, left);
  }
}

template <typename Vector, size_t COUNT>
Vector polynomial(const Vector& x, const float (&coefficients)[COUNT]) {  // by Horner's rule, the highest power first
  Vector value(coefficients[0]);
  for (size_t i = 1; i < COUNT; i++) value = at::vec::fmadd(value, x, Vector(coefficients[i]));
  return value;
}

struct Nothing {};

// The product, and with each part of it, as long as it is in the nearest cache, `each`.
template <typename Each = Nothing>
void multiply(const Matrices& out, const Matrices& a, const Matrices& b, const Matrices& other, const Each& each = {}) {
  static thread_local std::vector<float> room_a, room_b;
  constexpr bool alone = std::is_same_v<Each, Nothing>;
  const int64_t members = a.sizes[0], rows = a.sizes[1], inner = a.sizes[2], columns = b.sizes[2];
  const int64_t high = !alone ? NEAR : a.by_rows() ? rows : AT_A_TIME, wide = b.by_rows() ? columns : AT_A_TIME;
  const int64_t deep = a.by_rows() && b.by_rows() ? inner : AT_A_TIME;
  for (int64_t member = 0; member < members; member++)
    for (int64_t column = 0; column < columns; column += wide)
      for (int64_t at = 0; at < inner; at += deep) {
        const int64_t some_columns = std::min(wide, columns - column), summed = std::min(deep, inner - at);
        const Rows right = b.part(member, at, column, summed, some_columns, room_b);
        for (int64_t row = 0; row < rows; row += high) {
          const int64_t some_rows = std::min(high, rows - row);
          const Rows left = a.part(member, row, at, some_rows, summed, room_a);
          at::native::cpublas::brgemm(some_rows, some_columns, summed, left.apart, right.apart, out.strides[1], at > 0,
                                      left.first, right.first, out.at(member, row, column), false);
          if constexpr (!alone)
            if (at + summed == inner) finish(out, other, each, member, row, column, some_rows, some_columns);
        }
      }
}

// out [member, row, column] = each(a [member, row, inner] b [member, inner, column], other [member, row or 1, column])
//
// The rows of `out` are contiguous, those of `other` too, and a stride of rows or columns is 1 in both of the others.
template <typename Each = Nothing>
void bmm(const Matrices& out, const Matrices& a, const Matrices& b, const Matrices& other, const Each& each = {}) {
  const bool whole_vectors = b.sizes[2] % at::vec::Vectorized<float>::size() == 0;
  if (a.sizes[1] <= FEW && b.strides[1] == 1) dots(out, a, b);
  else if (a.strides[1] == 1 && a.sizes[1] > 1 && b.by_rows() && whole_vectors) outer_products(out, a, b);
  else return multiply(out, a, b, other, each);
  if constexpr (!std::is_same_v<Each, Nothing>)
    for (int64_t member = 0; member < a.sizes[0]; member++)
      finish(out, other, each, member, 0, 0, a.sizes[1], b.sizes[2]);
}

inline void bmm(const Matrices& out, const Matrices& a, const Matrices& b) { bmm(out, a, b, out); }

// What follows is named as the operators are: see products.py.

inline void bmm_relu(const Matrices& out, const Matrices& a, const Matrices& b, const Matrices& bias) {
  bmm(out, a, b, bias, [](auto x, auto bias) { return at::vec::clamp_min(x + bias, decltype(x)(0.f)); });
}

inline void bmm_tanh(const Matrices& out, const Matrices& a, const Matrices& b, const Matrices& bias) {
  bmm(out, a, b, bias, [](auto x, auto bias) {
    using Vector = decltype(x);
    x = at::vec::clamp(x + bias, Vector(-LARGEST), Vector(LARGEST));
    const Vector square = x * x;
    return x * polynomial(square, NUMERATOR) / polynomial(square, DENOMINATOR);
  });
}

inline void bmm_relu_backward(const Matrices& out, const Matrices& a, const Matrices& b, const Matrices& activated) {
  bmm(out, a, b, activated, [](auto slope, auto activated) {
    using Vector = decltype(slope);
    return Vector::blendv(slope, Vector(0.f), activated <= Vector(0.f));
  });
}

inline void bmm_tanh_backward(const Matrices& out, const Matrices& a, const Matrices& b, const Matrices& activated) {
  bmm(out, a, b, activated, [](auto slope, auto activated) {
    return slope * (decltype(slope)(1.f) - activated * activated);
  });
}

// Below the product, in one row more, the sums over the rows of `b`, which are contiguous.
inline void bmm_and_sum(const Matrices& out, const Matrices& a, const Matrices& b) {
  static float one = 1.f;
  const int64_t columns = b.sizes[2], whole = columns / at::vec::Vectorized<float>::size();
  bmm(out, a, b);
  Matrices sums = out, ones = a, rest = b;
  sums.data = out.at(0, a.sizes[1], 0);
  ones.data = &one, ones.sizes[1] = 1, ones.strides = {0, 0, 0};
  rest.sizes[2] = whole * at::vec::Vectorized<float>::size();
  outer_products(sums, ones, rest);
  for (int64_t member = 0; member < a.sizes[0]; member++)
    for (int64_t column = rest.sizes[2]; column < columns; column++) {
      float sum = 0.f;
      for (int64_t at = 0; at < b.sizes[1]; at++) sum += *b.at(member, at, column);
      *sums.at(member, 0, column) = sum;
    }
}

}  // namespace gumbelrl
