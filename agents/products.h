// Products of float32 matrices in the C++ that inductor writes, and what a network does with them: see products.py.

#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <type_traits>
#include <vector>

namespace gumbelrl {

using Vector = at::vec::Vectorized<float>;

constexpr int64_t AT_A_TIME = 256;  // rows and columns of a part
constexpr int64_t FEW = 4;

struct Matrices {  // one for each member
  Matrices(AtenTensorHandle tensor, int64_t offset, std::array<int64_t, 3> sizes, std::array<int64_t, 3> strides)
      : sizes(sizes), strides(strides) {
    void* found = nullptr;
    AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_get_data_ptr(tensor, &found));
    data = static_cast<float*>(found) + offset;
  }

  float* at(int64_t member, int64_t row, int64_t column) const {
    return data + member * strides[0] + row * strides[1] + column * strides[2];
  }

  float* data;
  std::array<int64_t, 3> sizes, strides;
};

struct Nothing {  // that is done with each vector of a product and one of another matrix
  Vector operator()(const Vector& x, const Vector&) const { return x; }
};

// A part of a product of two matrices, and of another one of that size. Rows of `b` are contiguous, those of `a` need not
// be. `out` has a part of the sums already, if they are to go `further`.
struct Part {
  float* out;
  const float *a, *b, *other;
  int64_t out_down, a_down, a_next, b_down, other_down, rows, inner, columns;
  bool further;

  Part right(int64_t column) const {  // of it
    Part rest = *this;
    rest.out += column, rest.b += column, rest.other += column, rest.columns -= column;
    return rest;
  }
};

// So many rows and vectors of a part, which stay in registers while `a` and `b` are read; of a single vector perhaps not
// all of it.
template <int ROWS, int VECTORS, typename Each>
void block(const Part& part, int64_t row, const Each& each) {
  const int64_t wide = VECTORS > 1 ? Vector::size() : std::min<int64_t>(Vector::size(), part.columns);
  const auto load = [wide](const float* from) { return VECTORS > 1 ? Vector::loadu(from) : Vector::loadu(from, wide); };
  float* out = part.out + row * part.out_down;
  const float *a = part.a + row * part.a_down, *b = part.b, *other = part.other + row * part.other_down;
  const int64_t a_down = part.a_down, a_next = part.a_next, b_down = part.b_down;
  Vector sums[ROWS][VECTORS], right[VECTORS];
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 8
    for (int j = 0; j < VECTORS; j++)
      sums[i][j] = part.further ? load(out + i * part.out_down + j * Vector::size()) : Vector(0.f);
  for (int64_t left = part.inner; left > 0; left--, a += a_next, b += b_down) {
#pragma GCC unroll 8
    for (int j = 0; j < VECTORS; j++) right[j] = load(b + j * Vector::size());
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 8
      for (int j = 0; j < VECTORS; j++) sums[i][j] = at::vec::fmadd(Vector(a[i * a_down]), right[j], sums[i][j]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 8
    for (int j = 0; j < VECTORS; j++) {
      const int64_t at = j * Vector::size();
      if constexpr (!std::is_same_v<Each, Nothing>) sums[i][j] = each(sums[i][j], load(other + i * part.other_down + at));
      sums[i][j].store(out + i * part.out_down + at, wide);
    }
}

template <int VECTORS, typename Each>
void blocks(const Part& part, const Each& each) {
  int64_t row = 0;
  for (; row + 6 <= part.rows; row += 6) block<6, VECTORS>(part, row, each);
  for (; row + 4 <= part.rows; row += 4) block<4, VECTORS>(part, row, each);
  for (; row + 2 <= part.rows; row += 2) block<2, VECTORS>(part, row, each);
  if (row < part.rows) block<1, VECTORS>(part, row, each);
}

template <typename Each>
void compute(const Part& part, const Each& each) {
  int64_t column = 0;
  for (; column + 4 * Vector::size() <= part.columns; column += 4 * Vector::size()) blocks<4>(part.right(column), each);
  for (; column < part.columns; column += Vector::size()) blocks<1>(part.right(column), each);
}

// Write so many rows and columns of matrices that lie column by column row by row.
inline void turn(const float* from, int64_t apart, int64_t rows, int64_t columns, std::vector<float>& to) {
  to.resize(std::max<size_t>(to.size(), rows * columns));
  if (std::min(rows, columns) >= 8) {  // torch's, in blocks of vectors
    at::vec::transpose_mxn<float>(from, apart, to.data(), columns, columns, rows);
  } else {
    for (int64_t i = 0; i < columns; i++)
      for (int64_t j = 0; j < rows; j++) to[j * columns + i] = from[i * apart + j];
  }
}

template <typename Each>
void multiply(const Matrices& out, const Matrices& a, const Matrices& b, const Matrices& other, const Each& each) {
  static thread_local std::vector<float> room;
  const int64_t rows = a.sizes[1], inner = a.sizes[2], columns = b.sizes[2];
  const bool by_rows = b.strides[2] == 1;
  const int64_t wide = by_rows ? columns : AT_A_TIME;
  for (int64_t member = 0; member < a.sizes[0]; member++)
    for (int64_t column = 0; column < columns; column += wide)
      for (int64_t at = 0; at < inner; at += AT_A_TIME) {
        const int64_t some = std::min(wide, columns - column), summed = std::min(AT_A_TIME, inner - at);
        const float* right = b.at(member, at, column);
        if (!by_rows) {
          turn(right, b.strides[2], summed, some, room);
          right = room.data();
        }
        const Part part = {
            .out = out.at(member, 0, column),
            .a = a.at(member, 0, at),
            .b = right,
            .other = other.at(member, 0, column),
            .out_down = out.strides[1],
            .a_down = a.strides[1],
            .a_next = a.strides[2],
            .b_down = by_rows ? b.strides[1] : some,
            .other_down = other.sizes[1] == 1 ? 0 : other.strides[1],
            .rows = rows,
            .inner = summed,
            .columns = some,
            .further = at > 0,
        };
        if (at + summed < inner) compute(part, Nothing());
        else compute(part, each);
      }
}

// Products of rows, which both matrices are to be summed along: for a few rows of `a`, which are copied if they do not
// lie so, cheaper than to turn `b` round.
template <typename Each>
void dots(const Matrices& out, const Matrices& a, const Matrices& b, const Matrices& other, const Each& each) {
  static thread_local std::vector<float> room;
  const int64_t members = a.sizes[0], rows = a.sizes[1], inner = a.sizes[2], columns = b.sizes[2];
  room.resize(std::max<size_t>(room.size(), inner));
  for (int64_t member = 0; member < members; member++)
    for (int64_t row = 0; row < rows; row++) {
      const float* left = a.at(member, row, 0);
      if (a.strides[2] != 1) {
        for (int64_t at = 0; at < inner; at++) room[at] = left[at * a.strides[2]];
        left = room.data();
      }
      float* to = out.at(member, row, 0);
      for (int64_t column = 0; column < columns; column++) {
        const float* right = b.at(member, 0, column);
        Vector sums(0.f);
        int64_t at = 0;
        for (; at + Vector::size() <= inner; at += Vector::size())
          sums = at::vec::fmadd(Vector::loadu(left + at), Vector::loadu(right + at), sums);
        float sum = at::vec::vec_reduce_all<float>([](Vector& x, Vector& y) { return x + y; }, sums);
        for (; at < inner; at++) sum += left[at] * right[at];
        to[column] = sum;
      }
      if constexpr (!std::is_same_v<Each, Nothing>) {
        const float* with = other.at(member, other.sizes[1] == 1 ? 0 : row, 0);
        for (int64_t at = 0; at < columns; at += Vector::size()) {
          const int64_t wide = std::min<int64_t>(Vector::size(), columns - at);
          each(Vector::loadu(to + at, wide), Vector::loadu(with + at, wide)).store(to + at, wide);
        }
      }
    }
}

// out [member, row, column] = each(a [member, row, inner] b [member, inner, column], other [member, row or 1, column])
//
// The rows of `out` and `other` are contiguous, and a stride of rows or columns is 1 in `b`.
template <typename Each = Nothing>
void bmm(const Matrices& out, const Matrices& a, const Matrices& b, const Matrices& other, const Each& each = {}) {
  if (a.sizes[1] <= FEW && b.strides[1] == 1) dots(out, a, b, other, each);
  else multiply(out, a, b, other, each);
}

inline void bmm(const Matrices& out, const Matrices& a, const Matrices& b) { bmm(out, a, b, out); }

template <size_t COUNT>
Vector polynomial(const Vector& x, const float (&coefficients)[COUNT]) {  // by Horner's rule, the highest power first
  Vector value(coefficients[0]);
  for (size_t i = 1; i < COUNT; i++) value = at::vec::fmadd(value, x, Vector(coefficients[i]));
  return value;
}

inline Vector tanh_of(const Vector& x) {
  const Vector within = at::vec::clamp(x, Vector(-LARGEST), Vector(LARGEST)), square = within * within;
  return within * polynomial(square, NUMERATOR) / polynomial(square, DENOMINATOR);
}

// What follows is named as the operators are: see products.py.

inline void bmm_relu(const Matrices& out, const Matrices& a, const Matrices& b, const Matrices& bias) {
  bmm(out, a, b, bias, [](const Vector& x, const Vector& bias) { return at::vec::clamp_min(x + bias, Vector(0.f)); });
}

inline void bmm_tanh(const Matrices& out, const Matrices& a, const Matrices& b, const Matrices& bias) {
  bmm(out, a, b, bias, [](const Vector& x, const Vector& bias) { return tanh_of(x + bias); });
}

inline void bmm_relu_backward(const Matrices& out, const Matrices& a, const Matrices& b, const Matrices& activated) {
  bmm(out, a, b, activated, [](const Vector& slope, const Vector& activated) {
    return Vector::blendv(slope, Vector(0.f), activated <= Vector(0.f));
  });
}

inline void bmm_tanh_backward(const Matrices& out, const Matrices& a, const Matrices& b, const Matrices& activated) {
  bmm(out, a, b, activated, [](const Vector& slope, const Vector& activated) {
    return slope * (Vector(1.f) - activated * activated);
  });
}

// Below the product, in one row more, the sums over the rows of `b`: their product with ones.
inline void bmm_and_sum(const Matrices& out, const Matrices& a, const Matrices& b) {
  static float one = 1.f;
  Matrices sums = out, ones = a;
  sums.data = out.at(0, a.sizes[1], 0);
  ones.data = &one, ones.sizes[1] = 1, ones.strides = {0, 0, 0};
  bmm(out, a, b);
  bmm(sums, ones, b);
}

}  // namespace gumbelrl
