// Backward and tangent_backward of `conv.cu`.
#pragma once
#include "conv.cuh"

constexpr u32 GROUPS = CHUNK / 4, LINES = THREADS / GROUPS, PIXELS = ceil_div(CELLS, LINES);
constexpr u32 Z_STRIDE = tile_row<operand>(COLUMNS), A_STRIDE = TENSOR ? tile_row<operand>(CHUNK) : CHUNK;
// How far from its cell an input pixel gathers: input pixel s·m + a lies under tap t of output
// m + (a + PAD − t)/s.
constexpr int LOW = STRIDE == 1 ? -PAD : -(PAD / 2), HIGH = STRIDE == 1 ? PAD : (1 + PAD) / 2;
// Pieces of W̄, HEIGHT × WIDTH, each a thread's, or a warp's on tensor cores; where there are fewer than WORKERS,
// several share the cells of one. tangent_backward needs registers for more else, so its pieces
// are half as high where that suffices.
constexpr u32 WORKERS = TENSOR ? WARPS : THREADS, WIDTH = TENSOR ? 8 : 4, OUTPUTS = COLUMNS / WIDTH;
constexpr u32 HEIGHT = TENSOR ? 16 : PASS == 3 && TAPS * GROUPS * OUTPUTS <= THREADS / 2 ? 2 : 4;
constexpr u32 BANDS = CHUNK / HEIGHT, PIECES = TAPS * BANDS * OUTPUTS;
constexpr u32 OWN = ceil_div(PIECES, WORKERS), SHARES = PIECES < WORKERS ? WORKERS / PIECES : 1;
// Small weights stay in shared memory over all tiles, others come tap by tap.
constexpr bool RESIDENT = TAPS * CHUNK * COLUMNS <= 4096;
// A tap's matrix: its transpose [COLUMNS, CHUNK]; on tensor cores [CHUNK, COLUMNS].
constexpr u32 W_STRIDE = TENSOR ? Z_STRIDE : CHUNK + 4, MATRIX = (TENSOR ? CHUNK : COLUMNS) * W_STRIDE;
constexpr u32 MATRICES = RESIDENT ? TAPS : 1;
// x̄ of a class on its way from the warps' registers to the threads that write it.
constexpr u32 X_STRIDE = tile_row<float>(CHUNK);

// The parity class of the input pixels under a tap, and the tap's shift of the output.
__host__ __device__ constexpr u32 parity(int tap) { return (tap + PAD) % STRIDE; }
__host__ __device__ constexpr int shift(int tap) { return ((int)parity(tap) + PAD - tap) / STRIDE; }
__host__ __device__ constexpr u32 class_of(u32 tap) { return parity(tap_y(tap)) * STRIDE + parity(tap_x(tap)); }
__host__ __device__ constexpr bool has_taps(u32 parity_class) {
    for (u32 tap = 0; tap < TAPS; ++tap)
        if (class_of(tap) == parity_class) return true;
    return false;
}

// Half of a multiprocessor's threads where the sums fit 64 registers a thread; channels one by one take a few more.
constexpr u32 RESIDENT_BLOCKS = TENSOR ? (OWN > 4 ? 2 : OWN > 2 && VECTOR == 1 ? 3 : 4) : OWN > 1 ? 2 : 4;

// Where things lie in shared memory.
template <class T> struct Tiles {
    T *z, *z_dot, *a, *a_dot, *w, *w_dot;
    float *x, *table;
    int *home, *pixel, *from;
};

// W_tap of the block's channels. With multiply-adds a warp takes 8 output channels × 4 input channels:
// whole sectors of W, and 32 banks.
template <class T>
__device__ __forceinline__ void load_matrix(const Conv& p, const Floats (&weight)[2], u32 tap, u32 k, T* to) {
    const auto entry = [&](u32 i, u32 o) {
        return o < p.channels ? weight_at(p, weight, tap, k + i, p.first + o) : 0.0f;
    };
    if constexpr (ON_TENSOR_CORES<T>) {
        store_rows<CHUNK, COLUMNS>(to, entry);
    } else {
#pragma unroll LOADS
        for (u32 e = threadIdx.x; e < COLUMNS * CHUNK; e += THREADS) {
            const u32 i = e % 4 + e / (4 * COLUMNS) * 4, o = e / 4 % COLUMNS;
            to[o * W_STRIDE + i] = entry(i, o);
        }
    }
}

// The output channels, from the launch's first, that a tap feeds: [begin, end), whole groups of four.
__device__ __forceinline__ void fed(const Conv& p, u32 tap, u32& begin, u32& end) {
    begin = 0, end = COLUMNS;
    if constexpr (!SPLIT) return;
    const u32 split = p.split > p.first ? p.split - p.first : 0;
    if (tap == 0) end = min(COLUMNS, (split + 3) & ~3u);
    else begin = min(COLUMNS, split & ~3u);
}

// Fills the tables of a tile, and z̄ over it.
template <bool DOT>
__device__ __forceinline__ void load_tile(const Conv& p, const Tiles<operand>& t, u32 tile, u32 zr, u32 zc) {
    const Corner begin = corner(p, tile);
    const u32 region = p.tile_images * zr * zc;
    for (u32 r = threadIdx.x; r < region; r += THREADS) {
        const u32 row = r / zc, image = begin.image + row / zr;
        const int y = (int)(begin.y + row % zr) + LOW, x = (int)(begin.x + r % zc) + LOW;
        const bool inside = image < p.images && (u32)y < p.rows && (u32)x < p.columns;
        t.from[r] = inside ? (int)((image * p.rows + y) * p.columns + x) : -1;
    }
    for (u32 e = threadIdx.x; e < CELLS; e += THREADS) {
        const Corner own = cell(p, e);
        const u32 image = begin.image + own.image;
        const u32 y = (begin.y + own.y) * STRIDE, x = (begin.x + own.x) * STRIDE;
        const bool inside = own.image < p.tile_images && image < p.images && y < p.height && x < p.width;
        t.home[e] = inside ? (int)((own.image * zr + own.y) * zc + own.x) - LOW * (int)zc - LOW : -LOW * (int)zc - LOW;
        // Pixel (0, 0) under the cell; and which of the others are in the image.
        t.pixel[2 * e] = inside ? (int)((image * p.height + y) * p.width + x) : -1;
        t.pixel[2 * e + 1] = (y + 1 < p.height ? 2 : 0) | (x + 1 < p.width ? 1 : 0);
    }
    __syncthreads();
    // By pairs of channels: with fours, the coefficients would push sums of W̄ out of the registers.
    constexpr u32 PAIR = WIDE < 2 ? WIDE : 2, PAIRS = COLUMNS / PAIR;
#pragma unroll LOADS
    for (u32 e = threadIdx.x; e < region * PAIRS; e += THREADS) {
        const u32 r = e / PAIRS, o = e % PAIRS * PAIR;
        const int pixel = t.from[r];
        Lanes<PAIR> bar = splat<PAIR>(0.0f), bar_dot = bar;
        if (pixel >= 0 && o < p.channels)
            adjoint<DOT, PAIR>(p.adjoint, t.table, p.cout, pixel, p.first + o, bar, bar_dot);
        store<PAIR>(t.z + r * Z_STRIDE + o, bar);
        if constexpr (DOT) store<PAIR>(t.z_dot + r * Z_STRIDE + o, bar_dot);
    }
}

// The input pixel of a class under a cell, or a negative number.
__device__ __forceinline__ int pixel_of(const Conv& p, const Tiles<operand>& t, u32 e, u32 parity_class) {
    const int origin = t.pixel[2 * e];
    if (STRIDE == 1 || origin < 0) return origin;
    if (parity_class & ~(u32)t.pixel[2 * e + 1]) return -1;
    return origin + (int)(parity_class / 2 * p.width + parity_class % 2);
}

// a (and ȧ) of the pixels of a class, [CELLS, CHUNK] with rows A_STRIDE apart.
template <bool DOT>
__device__ __forceinline__ void load_inputs(const Conv& p, const Tiles<operand>& t, u32 k, u32 parity_class) {
#pragma unroll LOADS
    for (u32 e = threadIdx.x; e < CELLS * GROUPS; e += THREADS) {
        Lanes<4> a, a_dot;
        activated<DOT>(p, pixel_of(p, t, e / GROUPS, parity_class), k + e % GROUPS * 4, a, a_dot);
        const u32 to = e / GROUPS * A_STRIDE + e % GROUPS * 4;
        store<4>(t.a + to, a);
        if constexpr (DOT) store<4>(t.a_dot + to, a_dot);
    }
}

// Each tap of a class with its weights in shared memory: each(tap, first element of its matrix, shift of z̄).
// Every thread of the block calls it.
template <bool DOT, class T, class Each>
__device__ __forceinline__ void
each_tap(const Conv& p, const Tiles<T>& t, u32 k, u32 parity_class, u32 zc, Each each) {
#pragma unroll 1
    for (u32 tap = 0; tap < TAPS; ++tap) {
        if (class_of(tap) != parity_class) continue;
        if constexpr (!RESIDENT) {
            __syncthreads();
            load_matrix(p, p.weight, tap, k, t.w);
            if constexpr (DOT) load_matrix(p, p.weight_tangent, tap, k, t.w_dot);
            __syncthreads();
        }
        each(tap, RESIDENT ? tap * MATRIX : 0, (shift(tap_y(tap)) * (int)zc + shift(tap_x(tap))) * (int)Z_STRIDE);
    }
}

// x̄ (or x̄˙) of a class, of four channels from 4·group and every LINES-th cell, by multiply-adds.
template <class T> struct InputByThreads {
    Lanes<4> sum[PIXELS];

    template <bool DOT>
    __device__ __forceinline__ void add(const Conv& p, const Tiles<T>& t, u32 k, u32 parity_class, u32 zc) {
        const u32 group = threadIdx.x % GROUPS, line = threadIdx.x / GROUPS;
        int home[PIXELS];
#pragma unroll
        for (u32 i = 0; i < PIXELS; ++i) {
            sum[i] = splat<4>(0.0f);
            home[i] = t.home[(line + i * LINES) % CELLS] * (int)Z_STRIDE;
        }
        each_tap<DOT>(p, t, k, parity_class, zc, [&](u32 tap, u32 matrix, int offset) {
            u32 begin, end;
            fed(p, tap, begin, end);
#pragma unroll 1
            for (u32 o = begin; o < end; o += 4) {
                // z̄˙·W, then z̄·Ẇ.
                Lanes<4> m[4];
                rows_of(m, t.w + matrix + 4 * group + o * W_STRIDE, W_STRIDE);
#pragma unroll
                for (u32 i = 0; i < PIXELS; ++i)
                    multiply(sum[i], load<4>((DOT ? t.z_dot : t.z) + home[i] + offset + (int)o), m);
                if constexpr (DOT) {
                    rows_of(m, t.w_dot + matrix + 4 * group + o * W_STRIDE, W_STRIDE);
#pragma unroll
                    for (u32 i = 0; i < PIXELS; ++i) multiply(sum[i], load<4>(t.z + home[i] + offset + (int)o), m);
                }
            }
        });
    }

    __device__ __forceinline__ Lanes<4> total(const Tiles<T>&, u32 i) const { return sum[i]; }
};

// The same on tensor cores.
template <class T> struct InputByWarps {
    template <bool DOT>
    __device__ __forceinline__ void add(const Conv& p, const Tiles<T>& t, u32 k, u32 parity_class, u32 zc) {
        typedef Product<T, CELLS, CHUNK> Block;
        Block sums;
        sums.clear();
        int home[Block::DOWN];
#pragma unroll
        for (u32 i = 0; i < Block::DOWN; ++i) home[i] = t.home[Block::row(i) + lane_of() % 16] * (int)Z_STRIDE;
        const auto all = [](u32) { return true; };
        each_tap<DOT>(p, t, k, parity_class, zc, [&](u32 tap, u32 matrix, int offset) {
            u32 begin, end;
            fed(p, tap, begin, end);
#pragma unroll 1
            for (u32 o = begin & ~(DEPTH<T> - 1); o < end; o += DEPTH<T>) {
                // z̄˙·W, then z̄·Ẇ.
                sums.add(DOT ? t.z_dot : t.z, home, offset + (int)o, t.w + matrix + o, W_STRIDE, all);
                if constexpr (DOT) sums.add(t.z, home, offset + (int)o, t.w_dot + matrix + o, W_STRIDE, all);
            }
        });
        sums.write(t.x, X_STRIDE);
        __syncthreads();
    }

    __device__ __forceinline__ Lanes<4> total(const Tiles<T>& t, u32 i) const {
        const u32 group = threadIdx.x % GROUPS, line = threadIdx.x / GROUPS;
        return load<4>(t.x + (line + i * LINES) * X_STRIDE + 4 * group);
    }
};

// Which part of W̄ a piece is: tap, first input channel, first output channel.
struct Piece {
    u32 tap, i, o;
    bool exists;
};

__device__ __forceinline__ Piece own_piece(u32 n) {
    const u32 worker = TENSOR ? threadIdx.x / 32 : threadIdx.x;
    const u32 piece = SHARES > 1 ? worker % PIECES : worker + n * WORKERS;
    return {piece / (BANDS * OUTPUTS), piece / OUTPUTS % BANDS * HEIGHT, piece % OUTPUTS * WIDTH, piece < PIECES};
}

// Where the piece's z̄ lies from a cell's home on, if the class feeds the piece.
__device__ __forceinline__ bool
feeds(const Conv& p, const Piece& own, u32 parity_class, u32 zc, int& offset) {
    if (!own.exists || class_of(own.tap) != parity_class) return false;
    u32 begin, end;
    fed(p, own.tap, begin, end);
    offset = (shift(tap_y(own.tap)) * (int)zc + shift(tap_x(own.tap))) * (int)Z_STRIDE + (int)own.o;
    return own.o + WIDTH > begin && own.o < end;
}

// sum += aᵀz
__device__ __forceinline__ void outer(float (&sum)[HEIGHT][4], const Lanes<HEIGHT>& a, const Lanes<4>& z) {
#pragma unroll
    for (u32 j = 0; j < HEIGHT; ++j)
#pragma unroll
        for (int l = 0; l < 4; ++l) sum[j][l] = fmaf(a[j], z[l], sum[j][l]);
}

// The block's part of W̄ (or W̄˙), in pieces of its threads, by multiply-adds.
template <class T> struct WeightsByThreads {
    float sum[OWN][HEIGHT][4] = {};

    // aᵀz̄ over the pixels of a class (W̄˙: aᵀz̄˙ + ȧᵀz̄).
    template <bool DOT>
    __device__ __forceinline__ void add(const Conv& p, const Tiles<T>& t, u32 parity_class, u32 cells, u32 zc) {
        const u32 share = threadIdx.x / PIECES;
        if (share >= SHARES) return;
#pragma unroll
        for (u32 n = 0; n < OWN; ++n) {
            const Piece own = own_piece(n);
            int offset;
            if (!feeds(p, own, parity_class, zc, offset)) continue;
#pragma unroll 1
            for (u32 e = share; e < cells; e += SHARES) {
                const int at_z = t.home[e] * (int)Z_STRIDE + offset;
                const u32 at_a = e * A_STRIDE + own.i;
                outer(sum[n], load<HEIGHT>(t.a + at_a), load<4>((DOT ? t.z_dot : t.z) + at_z));
                if constexpr (DOT) outer(sum[n], load<HEIGHT>(t.a_dot + at_a), load<4>(t.z + at_z));
            }
        }
    }

    // Writes it, [taps, CHUNK, COLUMNS]; past L1, and as one store: left to itself the compiler takes some apart.
    __device__ __forceinline__ void write(float* partial) const {
        float* scratch = reinterpret_cast<float*>(memory);
#pragma unroll
        for (u32 n = 0; n < OWN; ++n) {
            const Piece own = own_piece(n);
#pragma unroll
            for (u32 j = 0; j < HEIGHT; ++j) {
                Lanes<4> row;
#pragma unroll
                for (int l = 0; l < 4; ++l) row[l] = sum[n][j][l];
                if constexpr (SHARES > 1) {
                    __syncthreads();
                    store<4>(scratch + 4 * threadIdx.x, row);
                    __syncthreads();
                    for (u32 s = 1; s < SHARES; ++s) {
                        const Lanes<4> other = load<4>(scratch + 4 * (threadIdx.x % PIECES + s * PIECES));
#pragma unroll
                        for (int l = 0; l < 4; ++l) row[l] += other[l];
                    }
                }
                if (own.exists && (SHARES == 1 || threadIdx.x < PIECES))
                    __stcg(reinterpret_cast<float4*>(partial + (own.tap * CHUNK + own.i + j) * COLUMNS + own.o),
                           make_float4(row[0], row[1], row[2], row[3]));
            }
        }
    }
};

// The same in pieces of its warps, on tensor cores: steps of k are cells.
template <class T> struct WeightsByWarps {
    Sums sums[OWN] = {};

    template <bool DOT>
    __device__ __forceinline__ void add(const Conv& p, const Tiles<T>& t, u32 parity_class, u32 cells, u32 zc) {
        const u32 share = threadIdx.x / 32 / PIECES;
        if (share >= SHARES) return;
#pragma unroll 1
        for (u32 e = share * DEPTH<T>; e < cells; e += SHARES * DEPTH<T>) {
#pragma unroll
            for (u32 n = 0; n < OWN; ++n) {
                const Piece own = own_piece(n);
                int offset;
                if (!feeds(p, own, parity_class, zc, offset)) continue;
                const auto a_of = [&](const T* a) { return [=](u32 k) { return a + (e + k) * A_STRIDE + own.i; }; };
                const auto z_of = [&](const T* z) {
                    return [=](u32 k) { return z + t.home[e + k] * (int)Z_STRIDE + offset; };
                };
                u32 a[4], z[2];
                load_a_transposed<T>(a, a_of(t.a));
                load_b_transposed<T>(z, z_of(DOT ? t.z_dot : t.z));
                multiply<T>(sums[n], a, z);
                if constexpr (DOT) {
                    load_a_transposed<T>(a, a_of(t.a_dot));
                    load_b_transposed<T>(z, z_of(t.z));
                    multiply<T>(sums[n], a, z);
                }
            }
        }
    }

    __device__ __forceinline__ void write(float* partial) const {
        const u32 warp = threadIdx.x / 32;
#pragma unroll
        for (u32 n = 0; n < OWN; ++n) {
            const Piece own = own_piece(n);
            Lanes<4> all;
#pragma unroll
            for (int l = 0; l < 4; ++l) all[l] = sums[n][l];
            if constexpr (SHARES > 1) {
                float* scratch = reinterpret_cast<float*>(memory);
                __syncthreads();
                store<4>(scratch + 4 * threadIdx.x, all);
                __syncthreads();
                for (u32 s = 1; s < SHARES; ++s) {
                    const Lanes<4> other =
                        load<4>(scratch + 4 * ((warp % PIECES + s * PIECES) * 32 + lane_of()));
#pragma unroll
                    for (int l = 0; l < 4; ++l) all[l] += other[l];
                }
            }
            if (!own.exists || (SHARES > 1 && warp >= PIECES)) continue;
#pragma unroll
            for (int l = 0; l < 4; l += 2)
                __stcg(reinterpret_cast<float2*>(partial + (own.tap * CHUNK + own.i + sum_row(l)) * COLUMNS + own.o +
                                                 sum_column(l)),
                       make_float2(all[l], all[l + 1]));
        }
    }
};

template <class T> struct Multiplied {
    typedef InputByWarps<T> input;
    typedef WeightsByWarps<T> weights;
};
template <> struct Multiplied<float> {
    typedef InputByThreads<float> input;
    typedef WeightsByThreads<float> weights;
};

// x̄ (or x̄˙) of the pixels of a class. Every thread of the block calls it.
template <bool DOT, class T>
__device__ __forceinline__ void
input_adjoint(const Conv& p, const Tiles<T>& t, u32 k, u32 parity_class, u32 zc) {
    const u32 group = threadIdx.x % GROUPS, line = threadIdx.x / GROUPS;
    typename Multiplied<T>::input sums;
    sums.template add<DOT>(p, t, k, parity_class, zc);
#pragma unroll
    for (u32 i = 0; i < PIXELS; ++i) {
        const u32 e = line + i * LINES;
        const int pixel = e < CELLS ? pixel_of(p, t, e, parity_class) : -1;
        if (pixel < 0) continue;
        Lanes<4> sum = sums.total(t, i);
        if (p.relu && has_taps(parity_class)) {
            const Lanes<4> a = load<4>(t.a + e * A_STRIDE + 4 * group);
#pragma unroll
            for (int l = 0; l < 4; ++l)
                if (!(a[l] > 0.0f)) sum[l] = 0.0f;
        }
        put<VECTOR>(at(p.input_adjoint, pixel), k + 4 * group, p.cin, sum, p.adds);
    }
}

// Adds all blocks' parts of W̄ of these input channels, in order, by the last block.
__device__ __forceinline__ void finish_gradient(const Conv& p, const float* slice, u32 k) {
    constexpr u32 LEN = TAPS * CHUNK * COLUMNS;
    if (!last_block(at(p.tickets) + blockIdx.y, gridDim.x)) return;
    double* doubles = reinterpret_cast<double*>(memory);
    sum_partials(slice, gridDim.x, LEN, LEN, doubles, [&](u32 e, double total) {
        const u32 tap = e / (CHUNK * COLUMNS), i = k + e / COLUMNS % CHUNK, o = e % COLUMNS, c = p.first + o;
        if (i >= p.cin || o >= p.channels) return;
        if constexpr (!SPLIT) {
            at(p.gradient[0])[(tap * p.cin + i) * p.cout + c] = (float)total;
        } else if ((c >= p.split) == (tap == 1)) {
            if (tap == 0) at(p.gradient[0])[i * p.split + c] = (float)total;
            else at(p.gradient[1])[i * (p.cout - p.split) + c - p.split] = (float)total;
        }
    });
}

template <bool DOT> __device__ __forceinline__ void adjoints(const Conv& p) {
    const u32 zr = p.tile_rows + (u32)(HIGH - LOW), zc = p.tile_columns + (u32)(HIGH - LOW);
    const u32 region = p.tile_images * zr * zc, cells = p.tile_images * p.tile_rows * p.tile_columns;
    const u32 k = blockIdx.y * CHUNK;
    Tiles<operand> t;
    t.z = reinterpret_cast<operand*>(memory);
    t.z_dot = t.z + (DOT ? region * Z_STRIDE : 0);
    t.a = t.z_dot + region * Z_STRIDE;
    t.a_dot = t.a + (DOT ? CELLS * A_STRIDE : 0);
    t.w = t.a_dot + CELLS * A_STRIDE;
    t.w_dot = t.w + (DOT ? MATRICES * MATRIX : 0);
    t.x = reinterpret_cast<float*>(t.w_dot + MATRICES * MATRIX);
    t.table = t.x + (TENSOR ? CELLS * X_STRIDE : 0);
    t.home = reinterpret_cast<int*>(t.table + coefficients(p.cout, p.adjoint.count));
    t.pixel = t.home + CELLS;
    t.from = t.pixel + 2 * CELLS;
    prepare<DOT>(p.adjoint, p.cout, t.table);
    const bool wanted = p.input_adjoint.data != nullptr;
    if (RESIDENT && wanted) {
        for (u32 tap = 0; tap < TAPS; ++tap) {
            load_matrix(p, p.weight, tap, k, t.w + tap * MATRIX);
            if constexpr (DOT) load_matrix(p, p.weight_tangent, tap, k, t.w_dot + tap * MATRIX);
        }
    }
    Multiplied<operand>::weights gradient;
    for (u32 tile = blockIdx.x; tile < p.tiles; tile += gridDim.x) {
        __syncthreads(); // the tile before is done with
        load_tile<DOT>(p, t, tile, zr, zc);
#pragma unroll 1
        for (u32 parity_class = 0; parity_class < STRIDE * STRIDE; ++parity_class) {
            const bool taps = has_taps(parity_class);
            if (!taps && (!wanted || p.adds)) continue;
            __syncthreads(); // the class before is done with a; z̄ is complete
            if (taps) load_inputs<DOT>(p, t, k, parity_class);
            __syncthreads();
            if (taps) gradient.template add<DOT>(p, t, parity_class, cells, zc);
            if (wanted) input_adjoint<DOT>(p, t, k, parity_class, zc);
        }
    }
    if (p.bias_gradient.data && blockIdx.x == 0 && blockIdx.y == 0)
        for (u32 o = threadIdx.x; o < p.channels; o += THREADS) at(p.bias_gradient)[p.first + o] = 0.0f;
    __syncthreads();
    constexpr u32 LEN = TAPS * CHUNK * COLUMNS;
    float* slice = at(p.partials) + (u64)blockIdx.y * gridDim.x * LEN;
    gradient.write(slice + (u64)blockIdx.x * LEN);
    finish_gradient(p, slice, k);
}
