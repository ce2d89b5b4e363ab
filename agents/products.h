// Products of float32 matrices in the C++ that inductor writes, and what a network does with them: see products.py.

#include <ATen/cpu/vec/functional.h>
#include <ATen/cpu/vec/vec.h>

#include <algorithm>
#include <array>
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

// A part of a product of two matrices, and of another one of that size. Rows of `b` are contiguous, those of `a` need
// not be. `out` has a part of the products already, if they are to go `further`. The sum over the rows of `b` may go to
// `total`.
struct Part {
  float *out, *total;
  const float *a, *b, *other;
  int64_t out_down, a_down, a_next, b_down, other_down, rows, inner, columns;
  bool further;

  Part right(int64_t column) const {  // of it
    Part rest = *this;
    rest.out += column, rest.b += column, rest.other += column, rest.columns -= column;
    if (total) rest.total += column;
    return rest;
  }
};

// So many rows and vectors of a part, which stay in registers while `a` and `b` are read; of a single vector perhaps
// not all of it.
template <int ROWS, int VECTORS, bool TOTAL = false, typename Each>
void block(const Part& part, int64_t row, const Each& each) {
  const int64_t wide = VECTORS > 1 ? Vector::size() : std::min<int64_t>(Vector::size(), part.columns);
  const auto load = [wide](const float* from) { return VECTORS > 1 ? Vector::loadu(from) : Vector::loadu(from, wide); };
  float* out = part.out + row * part.out_down;
  const float *a = part.a + row * part.a_down, *b = part.b, *other = part.other + row * part.other_down;
  const int64_t a_down = part.a_down, a_next = part.a_next, b_down = part.b_down;
  Vector sums[ROWS][VECTORS], right[VECTORS], total[VECTORS];
  if constexpr (TOTAL)
#pragma GCC unroll 8
    for (int j = 0; j < VECTORS; j++) total[j] = part.further ? load(part.total + j * Vector::size()) : Vector(0.f);
#pragma GCC unroll 8
  for (int i = 0; i < ROWS; i++)
#pragma GCC unroll 8
    for (int j = 0; j < VECTORS; j++)
      sums[i][j] = part.further ? load(out + i * part.out_down + j * Vector::size()) : Vector(0.f);
  for (int64_t left = part.inner; left > 0; left--, a += a_next, b += b_down) {
#pragma GCC unroll 8
    for (int j = 0; j < VECTORS; j++) right[j] = load(b + j * Vector::size());
    if constexpr (TOTAL)
#pragma GCC unroll 8
      for (int j = 0; j < VECTORS; j++) total[j] = total[j] + right[j];
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
      if constexpr (!std::is_same_v<Each, Nothing>)
        sums[i][j] = each(sums[i][j], load(other + i * part.other_down + at));
      sums[i][j].store(out + i * part.out_down + at, wide);
    }
  if constexpr (TOTAL)
    for (int j = 0; j < VECTORS; j++) total[j].store(part.total + j * Vector::size(), wide);
}

template <int VECTORS, bool TOTAL, typename Each>
void blocks(const Part& part, const Each& each) {
  int64_t row = 0;
  if constexpr (TOTAL) {  // with the first rows, of which there are registers to spare
    if (part.rows >= 4) block<4, VECTORS, true>(part, row, each), row = 4;
    else block<1, VECTORS, true>(part, row, each), row = 1;
  }
  for (; row + 6 <= part.rows; row += 6) block<6, VECTORS>(part, row, each);
  for (; row + 4 <= part.rows; row += 4) block<4, VECTORS>(part, row, each);
  for (; row < part.rows; row++) block<1, VECTORS>(part, row, each);
}

template <bool TOTAL = false, typename Each>
void compute(const Part& part, const Each& each) {
  constexpr int64_t WIDE = 4 * Vector::size();
  int64_t column = 0;
  for (; column + WIDE <= part.columns; column += WIDE) blocks<4, TOTAL>(part.right(column), each);
  for (; column < part.columns; column += Vector::size()) blocks<1, TOTAL>(part.right(column), each);
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

// out [member, row, column] = each(a [member, row, inner] b [member, inner, column], other [member, row or 1, column])
//
// The rows of `out` and `other` are contiguous, and a stride of rows or columns is 1 in `b`. With TOTAL the sums over
// the rows of `b` are in one row more of `out`.
template <bool TOTAL = false, typename Each>
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
            .total = out.at(member, rows, column),
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
        if (at + summed < inner) compute<TOTAL>(part, Nothing());
        else compute<TOTAL>(part, each);
      }
}

// Products of rows, which both matrices are to be summed along: for a few rows of `a`, which are copied if they do not
// lie so, cheaper than to turn `b` round.
inline void dots(const Matrices& out, const Matrices& a, const Matrices& b) {
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
    }
}

// out [member, row, column] = each(a [member, row, inner] b [member, inner, column], other [member, row or 1, column])
//
// The rows of `out` and `other` are contiguous, and a stride of rows or columns is 1 in `b`.
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

// What follows is named as the operators are: see products.py. Most graphs call few of them, and what is a template is
// compiled when it is called.

inline void bmm(const Matrices& out, const Matrices& a, const Matrices& b) {
  if (a.sizes[1] <= FEW && b.strides[1] == 1) dots(out, a, b);
  else multiply(out, a, b, out, Nothing());
}

template <typename M>
void bmm_relu(const M& out, const M& a, const M& b, const M& bias) {
  multiply(out, a, b, bias, [](const Vector& x, const Vector& bias) {
    return at::vec::clamp_min(x + bias, Vector(0.f));
  });
}

template <typename M>
void bmm_tanh(const M& out, const M& a, const M& b, const M& bias) {
  multiply(out, a, b, bias, [](const Vector& x, const Vector& bias) { return tanh_of(x + bias); });
}

template <typename M>
void bmm_relu_backward(const M& out, const M& a, const M& b, const M& activated) {
  multiply(out, a, b, activated, [](const Vector& slope, const Vector& activated) {
    return Vector::blendv(slope, Vector(0.f), activated <= Vector(0.f));
  });
}

template <typename M>
void bmm_tanh_backward(const M& out, const M& a, const M& b, const M& activated) {
  multiply(out, a, b, activated, [](const Vector& slope, const Vector& activated) {
    return slope * (Vector(1.f) - activated * activated);
  });
}

template <typename M>
void bmm_and_sum(const M& out, const M& a, const M& b) {
  multiply<true>(out, a, b, out, Nothing());
}

}  // namespace gumbelrl
