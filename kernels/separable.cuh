// What the four passes of `separable.cu` have in common: the tables that the host writes, where a tile, its
// outputs and their strips lie, what a block keeps in shared memory, and the loads of state and weights.
#pragma once
#include "adjoint.cuh"

// One separable convolution of a group.
struct Branch {
    Floats depthwise;          // w [k, k, Cin]
    Floats pointwise;          // P [Cin, Cout]
    Floats depthwise_tangent;  // ẇ, in the tangent passes
    Floats pointwise_tangent;  // Ṗ
    Floats depthwise_gradient; // w̄ or w̄˙, in the backward passes
    Floats pointwise_gradient; // P̄ or P̄˙
    Pixels output;             // z
    Pixels output_tangent;     // ż
    Floats statistics;         // of z; null for a raw output
    Floats statistics_tangent;
    Adjoint adjoint;           // z̄, in the backward passes
    u32 kernel, stride, dilation, padding;
    u32 height, width, channels; // of z
    u32 ticket;
    u32 partial; // floats into a slot of the workspace
    u32 lines;   // rows of outputs in a strip
    u32 unused[2];
};
LAYOUT(Branch, 320);

// The branches that read one state, and how its image is cut.
struct Group {
    Input input;        // x
    Pixels adjoint;     // x̄ or x̄˙; null where nobody asks for it
    Pixels first_order; // x̄, in tangent_backward of a normalised input
    Floats sums;        // S₁ and S₂ of x̂, or their tangents, which are added to; null for a raw input
    u32 channels, height, width, adds;
    u32 first_branch, branches, first_block, blocks;
    u32 rows, columns, tiles_y, tiles_x; // a tile's size, and tiles in an image
    u32 tiles, chunk, border, subtile;   // chunk: channels at a time, whole quads; subtile: pixels at a time
    u32 partials, slot, slot_sums, ticket; // floats: the first slot, a slot's, and x̄'s sums in it
    u32 bar, weights, d, z;                // floats into shared memory; the state is at 0
    u32 table, taps, sum; // coefficients of the adjoint; w̄ [parts, k², chunk]; ā [tile, chunk]
    u32 products;         // P̄, see `ProductTable`
    u32 region;           // pixels of a strip of d̄ with the columns outside, at most
    u32 unused;
};
LAYOUT(Group, 232);

struct Separable {
    Header header;
    const Group* groups;
    const Branch* branches;
    Floats workspace;
    Tickets tickets;
    u32 count; // groups
    u32 batch;
    u32 unused[2];
};
LAYOUT(Separable, 80);

extern __shared__ float4 shared4[];

__device__ __forceinline__ u32 quads_of(u32 channels) {
    return (channels + 3) >> 2;
}
// Floats from a row to the next where rows of `channels`, whole quads, are read side by side: an odd number of
// quads, so that threads on neighbouring rows meet different banks.
__host__ __device__ constexpr u32 row_of(u32 channels) {
    return channels | 4;
}
__device__ __forceinline__ Lanes<4> quad(const float* shared) {
    return load<4>(shared);
}
__device__ __forceinline__ void multiply_add(Lanes<4>& sum, const Lanes<4>& x, const Lanes<4>& y) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[i] = fmaf(x[i], y[i], sum[i]);
}
__device__ __forceinline__ void multiply_add(Lanes<4>& sum, float x, const Lanes<4>& y) {
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[i] = fmaf(x, y[i], sum[i]);
}

// f(i, c + i) for each vector of the quad at c that has channels.
template <class F> __device__ __forceinline__ void vectors(u32 c, u32 channels, F f) {
#pragma unroll
    for (int i = 0; i < 4; i += VECTOR)
        if (c + i < channels) f(i, c + i);
}
template <class T> __device__ __forceinline__ void put(Lanes<4>& to, int i, const T& from) {
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) to[i + k] = from[k];
}
__device__ __forceinline__ Lanes<VECTOR> part(const Lanes<4>& from, int i) {
    Lanes<VECTOR> out;
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) out[k] = from[i + k];
    return out;
}
__device__ __forceinline__ Lanes<4> load_quad(const storage* pixel, u32 c, u32 channels) {
    Lanes<4> out = splat<4>(0.0f);
    vectors(c, channels, [&](int i, u32 at) { put(out, i, load<VECTOR>(pixel + at)); });
    return out;
}
__device__ __forceinline__ void store_quad(storage* pixel, u32 c, u32 channels, const Lanes<4>& x, bool adds) {
    vectors(c, channels, [&](int i, u32 at) { store_or_add<VECTOR>(pixel + at, part(x, i), adds); });
}

// A coordinate that lies outside every image, with every tap of a window there.
#define OUTSIDE (-1000)
// Sources of an adjoint, at most: MAX_SOURCES of `ops`.
#define MOST_SOURCES 16

// A rectangle of pixels of an image.
struct Rectangle {
    int top, left;
    u32 height, width;

    __device__ __forceinline__ u32 pixels() const { return height * width; }
    // Its pixel at (y, x), or −1 outside.
    __device__ __forceinline__ int at(int y, int x) const {
        const u32 dy = (u32)(y - top), dx = (u32)(x - left);
        return dy < height && dx < width ? (int)(dy * width + dx) : -1;
    }
};

// ⌊x / stride⌋ for stride 1 or 2.
__device__ __forceinline__ int floor_half(int x, u32 stride) {
    return x >> (stride - 1);
}

// Rows (or columns) `from` … `to` (past the last) clipped to 0 … size.
__device__ __forceinline__ void clip(int from, int to, u32 size, int& first, u32& count) {
    first = max(from, 0);
    count = (u32)max(min(to, (int)size) - first, 0);
}

// Where a block is: its tile of an image, and the state's pixels that the tile's windows reach: rows
// inside the image, columns also outside it (they hold zeros), so that no tap asks for its column.
struct Tile {
    u32 image;
    Rectangle own, reach;
};

__device__ __forceinline__ Tile tile_of(const Group& g, u32 index) {
    Tile t;
    const u32 column = index % g.tiles_x, rest = index / g.tiles_x;
    const u32 row = rest % g.tiles_y;
    t.image = rest / g.tiles_y;
    const int y = (int)(row * g.rows), x = (int)(column * g.columns), border = (int)g.border;
    clip(y, y + (int)g.rows, g.height, t.own.top, t.own.height);
    clip(x, x + (int)g.columns, g.width, t.own.left, t.own.width);
    clip(y - border, y + (int)g.rows + border, g.height, t.reach.top, t.reach.height);
    t.reach.left = t.own.left - border, t.reach.width = t.own.width + 2 * g.border;
    return t;
}

// The outputs whose windows stand on the tile: those of this tile. Tiles begin at even pixels.
__device__ __forceinline__ Rectangle outputs_on(const Branch& b, const Tile& t) {
    Rectangle r;
    const int s = (int)b.stride;
    clip((t.own.top + s - 1) / s, ((int)(t.own.top + t.own.height) + s - 1) / s, b.height, r.top, r.height);
    clip((t.own.left + s - 1) / s, ((int)(t.own.left + t.own.width) + s - 1) / s, b.width, r.left, r.width);
    return r;
}

// The outputs whose windows reach into the tile; columns again also outside the image.
__device__ __forceinline__ Rectangle outputs_around(const Branch& b, const Tile& t) {
    Rectangle r;
    const int p = (int)b.padding, s = (int)b.stride;
    const auto first = [&](int from) { return floor_half(from - p + s - 1, b.stride); };
    const auto end = [&](int from, u32 count) { return floor_half(from + (int)count - 1 + p, b.stride) + 1; };
    clip(first(t.own.top), end(t.own.top, t.own.height), b.height, r.top, r.height);
    r.left = first(t.own.left), r.width = (u32)(end(t.own.left, t.own.width) - r.left);
    return r;
}

// P in shared memory. FMA units read a row of the product's depth at a time, for all columns; tensor cores gather
// from rows that lie along the depth.
template <bool BACKWARD> __host__ __device__ constexpr bool is_transposed() {
#ifdef TENSOR
    return !BACKWARD;
#else
    return BACKWARD;
#endif
}
__host__ __device__ constexpr u32 pointwise_row(u32 columns) {
#ifdef TENSOR
    return row_of(columns);
#else
    return columns;
#endif
}

// Which part of a group a backward block takes: every `sets`th tile, and one chunk of channels.
struct Share {
    float* slots; // the group's
    u32 set, sets, part, c0;
    u32 tile; // the one that is under way
};

// What all threads of a block have in common. It is kept in shared memory, because in registers it
// would be kept by each of them.
struct Stage {
    Group group;
    Branch branch;
    Tile tile;
    Rectangle own;    // outputs of the tile
    Rectangle around; // outputs whose windows reach into it
    Rectangle inside; // those of them that are in the image
    Source sources[MOST_SOURCES];
    Share share;
    u32 taps, depth; // k², and the output's channels in whole quads
    u32 parts;       // of w̄, see `TapRows`
    u32 pointwise_row; // floats from a row of P in shared memory to the next, see `load_pointwise`
    u32 d_columns;   // channels in a row of d: all of them, or in the backward passes a chunk
    // Floats into shared memory, beside the group's.
    u32 state_dot, bar_dot, w_dot, pointwise, pointwise_dot, d_dot, z_dot;
};

// The thread's index, read anew: kept over a whole kernel, what is made of it would take registers from sums.
__device__ __forceinline__ u32 thread() {
    u32 x;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
    return x;
}

template <class T> __device__ __forceinline__ void copy_words(const T& from, T& to) {
    const u32* words = reinterpret_cast<const u32*>(&from);
    u32* out = reinterpret_cast<u32*>(&to);
    for (u32 i = thread(); i < sizeof(T) / 4; i += THREADS) out[i] = words[i];
}

// Finds the block's group. Ends with a barrier.
__device__ __forceinline__ void set_group(const Separable& p, Stage& stage) {
    u32 i = 0;
    while (i + 1 < p.count && blockIdx.x >= p.groups[i + 1].first_block) ++i;
    copy_words(p.groups[i], stage.group);
    __syncthreads();
}

// How w̄ is shared out: a warp takes up to five taps of a row (four with tangents: there are no registers
// for more) and up to 32 quads; its threads that are left over, and the warps that are, take further pixels.
// `parts` of them must be added in the end.
struct TapRows {
    u32 wide, slices, jobs, parts;

    __device__ __forceinline__ TapRows(u32 kernel, u32 most, u32 chunk) {
        wide = 1;
        while (wide < 32 && wide < (chunk >> 2)) wide <<= 1;
        slices = ((chunk >> 2) + 31) / 32;
        const u32 segments = kernel > most ? 2 * kernel : kernel;
        parts = max(THREADS / 32 / (segments * slices), 1u);
        jobs = segments * slices * parts;
    }
};

__host__ __device__ constexpr int most_taps(bool tangent) {
    return tangent ? 4 : 5;
}

// The rows of some outputs that are under way: `lines` of them from row `first` on.
struct Strip {
    const Rectangle& of;
    u32 first, lines;

    __device__ __forceinline__ int top() const { return of.top + (int)first; }
    __device__ __forceinline__ u32 height() const { return min(lines, of.height - first); }
    __device__ __forceinline__ u32 pixels() const { return height() * of.width; }
    __device__ __forceinline__ int y(u32 pixel) const { return top() + (int)(pixel / of.width); }
    __device__ __forceinline__ int x(u32 pixel) const { return of.left + (int)(pixel % of.width); }
};

// A thread that takes N of `count` pixels takes those that are this far apart.
template <int N> __device__ __forceinline__ u32 span_of(u32 count) {
    return (count + N - 1) / N;
}

// Sets the branch, with its adjoint's sources in the backward passes; a barrier must follow. The tile
// is set.
template <bool TANGENT, bool BACKWARD>
__device__ __forceinline__ void set_branch(const Branch& b, Stage& stage) {
    const Group& g = stage.group;
    copy_words(b, stage.branch);
    if constexpr (BACKWARD) {
        const u32* words = reinterpret_cast<const u32*>(b.adjoint.sources);
        u32* out = reinterpret_cast<u32*>(stage.sources);
        for (u32 i = thread(); i < b.adjoint.count * (sizeof(Source) / 4); i += THREADS) out[i] = words[i];
        __syncthreads();
        if (threadIdx.x == 0) stage.branch.adjoint.sources = stage.sources;
    }
    if (threadIdx.x == THREADS - 1) {
        stage.own = outputs_on(b, stage.tile);
        const Rectangle around = outputs_around(b, stage.tile);
        stage.around = stage.inside = around;
        clip(around.left, around.left + (int)around.width, b.width, stage.inside.left, stage.inside.width);
        stage.taps = b.kernel * b.kernel;
        stage.depth = 4 * quads_of(b.channels);
        stage.parts = BACKWARD ? TapRows(b.kernel, most_taps(TANGENT), g.chunk).parts : 1;
        stage.state_dot = stage.tile.reach.pixels() * g.chunk;
        stage.bar_dot = g.bar + g.region * g.chunk;
        stage.w_dot = g.weights + stage.taps * g.chunk;
        stage.pointwise = g.weights + (TANGENT ? 2 : 1) * stage.taps * g.chunk;
        const bool transposed = is_transposed<BACKWARD>();
        stage.pointwise_row = pointwise_row(transposed ? g.chunk : stage.depth);
        stage.pointwise_dot = stage.pointwise + (transposed ? stage.depth : g.chunk) * stage.pointwise_row;
        stage.d_columns = BACKWARD ? g.chunk : 4 * quads_of(g.channels);
        stage.d_dot = g.d + g.subtile * row_of(stage.d_columns);
        stage.z_dot = g.z + g.subtile * row_of(stage.depth);
    }
}

// Floats of shared memory from `offset` on.
__device__ __forceinline__ float* room(u32 offset) {
    return reinterpret_cast<float*>(shared4) + offset;
}

// A thread's quad of channels, and its row among the pixels that stand on each quad.
struct Place {
    u32 q, row, rows;

    __device__ __forceinline__ explicit Place(u32 channels) {
        const u32 quads = channels >> 2, id = thread();
        q = id % quads, row = id / quads, rows = THREADS / quads;
    }
};

// Loads channels c0 … of the state around the tile, activated: a, and ȧ if TANGENT.
template <bool TANGENT>
__device__ __forceinline__ void
load_state(const Stage& stage, u32 c0) {
    const Group& g = stage.group;
    const Tile& t = stage.tile;
    const u32 wide = g.chunk / VECTOR, items = t.reach.pixels() * wide;
    float *a = room(0), *a_dot = room(items * VECTOR); // `state_dot` of a branch
#pragma unroll 1
    for (u32 i = thread(); i < items; i += THREADS) {
        const u32 c = c0 + VECTOR * (i % wide), at_pixel = i / wide;
        const u32 y = (u32)t.reach.top + at_pixel / t.reach.width;
        const u32 x = (u32)t.reach.left + at_pixel % t.reach.width;
        const u32 pixel = (t.image * g.height + y) * g.width + x;
        Lanes<VECTOR> value = splat<VECTOR>(0.0f), dot = value;
        if (x < g.width && c < g.channels) {
            value = read<VECTOR>(g.input, pixel, c, g.channels);
            if constexpr (TANGENT) dot = read_tangent<VECTOR>(g.input, value, pixel, c, g.channels);
        }
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) {
            // In this order a NaN passes.
            dot[k] = value[k] > 0.0f ? dot[k] : 0.0f;
            value[k] = value[k] < 0.0f ? 0.0f : value[k];
        }
        store<VECTOR>(a + VECTOR * i, value);
        if constexpr (TANGENT) store<VECTOR>(a_dot + VECTOR * i, dot);
    }
}

// Copies channels c0 … of w [k², C] to [k², chunk].
__device__ __forceinline__ void
load_depthwise(const float* w, u32 taps, u32 c0, u32 channels, u32 chunk, float* to) {
    for (u32 i = thread(); i < taps * chunk; i += THREADS) {
        const u32 c = c0 + i % chunk;
        to[i] = c < channels ? w[(i / chunk) * channels + c] : 0.0f;
    }
}

// Copies rows c0 … of P [C, Cout] as the pass's products read them: [chunk, depth], or transposed [depth, chunk].
// In the latter a warp reads four rows of eight, which are whole sectors, and meets each bank eight times at most.
template <bool BACKWARD> __device__ __forceinline__ void load_pointwise(const Stage& s, const float* p, u32 c0, float* to) {
    const u32 chunk = s.group.chunk, channels = s.group.channels, cout = s.branch.channels, step = s.pointwise_row;
    if constexpr (is_transposed<BACKWARD>()) {
        const u32 eights = (s.depth + 7) >> 3;
        for (u32 i = thread(); i < chunk * 8 * eights; i += THREADS) {
            const u32 part = i >> 5;
            const u32 row = 4 * (part / eights) + (i >> 3 & 3), c = c0 + row, o = 8 * (part % eights) + (i & 7);
            if (o < s.depth) to[o * step + row] = c < channels && o < cout ? p[c * cout + o] : 0.0f;
        }
    } else {
        for (u32 i = thread(); i < chunk * s.depth; i += THREADS) {
            const u32 row = i / s.depth, c = c0 + row, o = i % s.depth;
            to[row * step + o] = c < channels && o < cout ? p[c * cout + o] : 0.0f;
        }
    }
}

// Floats into d̄ of a pixel of the strip, or of a column beside it.
__device__ __forceinline__ u32 bar_at(const Stage& s, const Strip& strip, int y, int x) {
    return (u32)((y - strip.top()) * (int)s.around.width + x - s.around.left) * s.group.chunk;
}
