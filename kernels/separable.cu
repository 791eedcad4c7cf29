// Separable convolution: relu → depthwise k×k → pointwise, with batch statistics. All four passes.
//
//   forward           a = relu(x or x̂),  d = a ⋆ w,  z = d·P
//   tangent           ḋ = ȧ ⋆ w + a ⋆ ẇ,  ż = ḋ·P + d·Ṗ
//   backward          d̄ = z̄·Pᵀ,  P̄ = dᵀ·z̄,  w̄_tap = Σ d̄ ∘ a[tap],  x̄ = 1[a > 0] ∘ (d̄ ⋆ᵀ w)
//   tangent_backward  d̄˙ = z̄˙·Pᵀ + z̄·Ṗᵀ,  P̄˙ = ḋᵀ·z̄ + dᵀ·z̄˙,  w̄˙_tap = Σ d̄˙ ∘ a[tap] + d̄ ∘ ȧ[tap],
//                     x̄˙ = 1[a > 0] ∘ (d̄˙ ⋆ᵀ w + d̄ ⋆ᵀ ẇ)
//
// ROOFLINE. A branch of C → C channels moves 4 B an output element (8 with its adjoint's source) for
// 2·k² + 2·C FLOP forward and three times that backward: 20 FLOP a byte at k = 5, C = 16, and 45 at
// C = 64. An H100 balances at 20 in f32. What binds sooner is shared memory: a tap is one FMA for one load
// unless a thread does several pixels, and backward at C = 16 a pixel and branch take 84 passes over the banks
// (cycles of a multiprocessor; counted, mean over k = 3 and 5), where its 128 B of device memory take 9. So:
//
// - d never leaves the chip, and d̄ neither: it is needed around a tile, and is made again there.
// - A block owns a tile of one state (forward all channels, backward a chunk of them, where they do not fit)
//   and runs every branch that reads it: the state is read once for up to 16 branches, and x̄ is summed over
//   them in shared memory and written once. What neighbouring tiles read twice at their seams comes from L2.
// - A tile is taken in strips of whole rows. d̄ of a strip is added to all of ā that its windows reach,
//   so no more of d̄ than a strip is ever kept, and a tile may be as large as the state and ā allow: its
//   seams, where all is computed twice, are few. Chunks of channels have no seams; what they read twice
//   is z̄, so they are preferred.
// - Taps are of two pixels a thread, and products in f32 of two to four pixels × four channels (`separable_fma.cuh`), so
//   that a load from shared memory serves several FMAs. In tf32 and bf16 products are on tensor cores, 16 × 16 sums
//   a warp (`separable_mma.cuh`). Both are between the same barriers, over the same tiles of floats.
// - The tangent passes compute value and tangent (d and ḋ, z̄ and z̄˙) from one load of each input.
//
// LAYOUT. A pixel's channels lie together in shared memory, padded to quads; neighbouring threads
// take neighbouring quads, then neighbouring pixels, so a warp reads 512 successive bytes. Rows of
// d and z̄ are an odd number of quads, so that threads on different pixels meet different banks. The
// state's tile has columns outside the image, of zeros, so that no tap asks for its column; rows outside
// are left out, because at an 8×8 image and dilated 5×5 windows they would be as many as those inside.
// What a block's threads have in common is in shared memory too (`Stage`): 64 registers a thread are
// what half of an H100's threads may have, and sums take most of them.
//
// REDUCTIONS. Forward, a tile leaves one partial of the statistics, and the last tile of a branch combines
// them. Backward, a block sums its tiles into its own slot of the workspace, and the last block of a branch
// and chunk sums the slots. Blocks begin at different branches, so the last ones are different blocks.
//
// The tables that the host writes, the geometry of tiles and the loads are in `separable.cuh`.
//
// Definitions: VECTOR, THREADS, and in tf32 and bf16 TENSOR, the type that products round their operands to.
#include "separable.cuh"
#ifdef TENSOR
#include "separable_mma.cuh"
#else
#include "separable_fma.cuh"
#endif

// d (and ḋ) of a strip of outputs, Σ a[tap]·w_tap, as [pixels, row_of(d_columns)] from column c0 on; zero at those
// that are not the tile's own. A thread takes one quad of channels at N outputs, which share the loads of
// weights.
template <bool TANGENT, int N>
__device__ __forceinline__ void depthwise(const Stage& s, const Strip& strip, u32 c0) {
    const u32 chunk = s.group.chunk, quads = chunk >> 2, rows = THREADS / quads;
    const u32 id = thread(), q = id % quads, row = id / quads;
    if (row >= rows || c0 + 4 * q >= s.d_columns) return;
    const Rectangle& reach = s.tile.reach;
    const u32 step = s.branch.dilation * chunk, line_step = s.branch.dilation * reach.width * chunk - s.branch.kernel * step;
    const u32 span = span_of<N>(strip.pixels());
#pragma unroll 1
    for (u32 u = row; u < span; u += rows) {
        int line[N];
        const float* a[N];
        Lanes<4> sum[N], dot[N];
        bool any = false;
#pragma unroll
        for (int n = 0; n < N; ++n) {
            const u32 at = u + n * span;
            const int y = strip.y(at), x = strip.x(at);
            const bool live = at < strip.pixels() && s.own.at(y, x) >= 0;
            const int padding = (int)s.branch.padding, stride = (int)s.branch.stride;
            any = any || live;
            line[n] = live ? y * stride - padding - reach.top : OUTSIDE;
            a[n] = room(0) + ((line[n] * (int)reach.width + x * stride - padding - reach.left) * (int)chunk + (int)(4 * q));
            sum[n] = dot[n] = splat<4>(0.0f);
        }
        const float* w = room(s.group.weights + 4 * q);
        // Around a small tile most outputs are others'.
        const float* end = any ? room(s.w_dot) : w;
#pragma unroll 1
        while (w < end) {
#pragma unroll 1
            for (u32 kx = 0; kx < s.branch.kernel; ++kx) {
                const Lanes<4> weight = quad(w);
#pragma unroll
                for (int n = 0; n < N; ++n) {
                    if ((u32)line[n] < reach.height) {
                        const Lanes<4> value = quad(a[n]);
                        multiply_add(sum[n], value, weight);
                        if constexpr (TANGENT) {
                            multiply_add(dot[n], quad(a[n] + s.state_dot), weight);
                            multiply_add(dot[n], value, quad(w + (s.w_dot - s.group.weights)));
                        }
                    }
                    a[n] += step;
                }
                w += chunk;
            }
#pragma unroll
            for (int n = 0; n < N; ++n) line[n] += (int)s.branch.dilation, a[n] += line_step;
        }
#pragma unroll
        for (int n = 0; n < N; ++n) {
            if (u + n * span < strip.pixels()) {
                const u32 to = (u + n * span) * row_of(s.d_columns) + c0 + 4 * q;
                store<4>(room(s.group.d + to), sum[n]);
                if constexpr (TANGENT) store<4>(room(s.d_dot + to), dot[n]);
            }
        }
    }
}

// `call` with K, the window's side.
#define FOR_KERNEL(b, call)                                                                          \
    do {                                                                                             \
        if ((b).kernel == 3) {                                                                       \
            constexpr int K = 3;                                                                     \
            call;                                                                                    \
        } else if ((b).kernel == 5) {                                                                \
            constexpr int K = 5;                                                                     \
            call;                                                                                    \
        } else {                                                                                     \
            constexpr int K = 7;                                                                     \
            call;                                                                                    \
        }                                                                                            \
    } while (0)

// d (and ḋ) of a strip in all channels. State and weights stay from strip to strip where all channels fit.
template <bool TANGENT>
__device__ __forceinline__ void strip_depthwise(const Stage& s, const Strip& strip, bool begins) {
    const Group& g = s.group;
    const Branch& b = s.branch;
#pragma unroll 1
    for (u32 c0 = 0; c0 < g.channels; c0 += g.chunk) {
        if (g.chunk < g.channels) load_state<TANGENT>(s, c0);
        if (begins || g.chunk < g.channels) {
            load_depthwise(at(b.depthwise), s.taps, c0, g.channels, g.chunk, room(g.weights));
            if constexpr (TANGENT) load_depthwise(at(b.depthwise_tangent), s.taps, c0, g.channels, g.chunk, room(s.w_dot));
        }
        __syncthreads();
        depthwise<TANGENT, TANGENT ? 1 : 2>(s, strip, c0);
        __syncthreads();
    }
}

// z (or ż) of a strip, each thread's two pixels.
template <bool TANGENT>
__device__ __forceinline__ void strip_pointwise(const Stage& s, u32 count, bool begins, Lanes<4> (&z)[2]) {
    const Group& g = s.group;
    const Branch& b = s.branch;
    Values values;
#pragma unroll 1
    for (u32 c0 = 0; c0 < g.channels; c0 += g.chunk) {
        if (begins || g.chunk < g.channels) {
            load_pointwise<false>(s, at(b.pointwise), c0, room(s.pointwise));
            if constexpr (TANGENT) load_pointwise<false>(s, at(b.pointwise_tangent), c0, room(s.pointwise_dot));
            __syncthreads();
        }
        values.template add<TANGENT>(s, count, c0);
        __syncthreads(); // what is overwritten next was read
    }
    values.hand_over(s, count, z);
}

// What a thread gathers for the statistics of its quad of channels.
template <bool TANGENT> struct Gathered;
template <> struct Gathered<false> {
    Spread<4> spread;

    __device__ __forceinline__ void add(const Branch&, u32, u32, const Lanes<4>& z) { spread.add(z); }
    __device__ __forceinline__ void write(const Place& at, u32 columns, float* scratch, float* to) const {
        write_spread<4>(spread, at.q, at.row, at.rows, columns, scratch, to);
    }
};
template <> struct Gathered<true> {
    Lanes<4> sums[2]; // Σ ż, Σ x̂·ż

    __device__ __forceinline__ Gathered() { sums[0] = sums[1] = splat<4>(0.0f); }
    __device__ __forceinline__ void add(const Branch& b, u32 pixel, u32 c, const Lanes<4>& dot) {
        const float* m = at(b.statistics) + c; // padded to sixteen
        const Lanes<4> value = load_quad(at(b.output, pixel), c, b.channels);
        const Lanes<4> mean = load<4>(m), r = load<4>(m + padded(b.channels));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            sums[0][i] += dot[i];
            sums[1][i] = fmaf((value[i] - mean[i]) * r[i], dot[i], sums[1][i]);
        }
    }
    __device__ __forceinline__ void write(const Place& at, u32 columns, float* scratch, float* to) const {
        write_sums<4, 2>(sums, at.q, at.row, at.rows, columns, scratch, to);
    }
};

// Writes a strip's outputs, and gathers what was stored.
template <bool TANGENT>
__device__ __forceinline__ void
write_outputs(const Stage& s, const Strip& strip, const Lanes<4> (&z)[2], Gathered<TANGENT>& gathered) {
    const Branch& b = s.branch;
    const Place at_(s.depth);
    const u32 span = span_of<2>(strip.pixels());
#pragma unroll
    for (int n = 0; n < 2; ++n) {
        const u32 u = at_.row + n * span;
        if (at_.row < min(at_.rows, span) && u < strip.pixels()) {
            const u32 y = (u32)strip.y(u), x = (u32)strip.x(u);
            const u32 pixel = (s.tile.image * b.height + y) * b.width + x;
            store_quad(at(TANGENT ? b.output_tangent : b.output, pixel), 4 * at_.q, b.channels, z[n], false);
            if (b.statistics.data) gathered.add(b, pixel, 4 * at_.q, as_stored(z[n]));
        }
    }
}

// The tile's partial of the statistics to its slot; the last tile of the branch combines them.
template <bool TANGENT>
__device__ __forceinline__ void
write_statistics(const Separable& p, const Stage& s, const Gathered<TANGENT>& gathered) {
    const Branch& b = s.branch;
    const Group& g = s.group;
    // The strips' room is free.
    float *rows = room(g.d), *scratch = rows + 3 * s.depth;
    gathered.write(Place(s.depth), s.depth, scratch, rows);
    __syncthreads();
    float* partials = at(p.workspace) + g.partials + b.partial;
    float* slot = partials + (blockIdx.x - g.first_block) * g.slot;
    for (u32 i = thread(); i < (TANGENT ? 2 : 3) * b.channels; i += THREADS)
        slot[i] = rows[(i / b.channels) * s.depth + i % b.channels];
    if (!last_block(at(p.tickets) + b.ticket, g.tiles)) return;
    double* wide = reinterpret_cast<double*>(rows);
    if constexpr (TANGENT) {
        const u32 count = p.batch * b.height * b.width;
        finish_tangent(partials, g.tiles, g.slot, b.channels, count, wide, at(b.statistics_tangent));
    } else {
        finish_spread(partials, g.tiles, g.slot, b.channels, wide, at(b.statistics));
    }
}

// z (or ż) of one tile, one branch at a time.
template <bool TANGENT> __device__ __forceinline__ void values(const Separable& p) {
    __shared__ Stage s;
    set_group(p, s);
    const Group& g = s.group;
    const u32 index = blockIdx.x - g.first_block;
    if (threadIdx.x == 0) s.tile = tile_of(g, index);
    __syncthreads();
    if (g.chunk >= g.channels) load_state<TANGENT>(s, 0);
#pragma unroll 1
    for (u32 turn = 0; turn < g.branches; ++turn) {
        __syncthreads(); // the branch before is done
        set_branch<TANGENT, false>(p.branches[g.first_branch + (turn + blockIdx.x) % g.branches], s);
        __syncthreads();
        Gathered<TANGENT> gathered;
#pragma unroll 1
        for (u32 first = 0; first < s.own.height; first += s.branch.lines) {
            const Strip strip{s.own, first, s.branch.lines};
            strip_depthwise<TANGENT>(s, strip, first == 0);
            Lanes<4> z[2];
            strip_pointwise<TANGENT>(s, strip.pixels(), first == 0, z);
            write_outputs<TANGENT>(s, strip, z, gathered);
        }
        if (s.branch.statistics.data) write_statistics<TANGENT>(p, s, gathered);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2) separable_forward(const __grid_constant__ Separable p) {
    BEGIN(p);
    values<false>(p);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2) separable_tangent(const __grid_constant__ Separable p) {
    BEGIN(p);
    values<true>(p);
}

// z̄ (and z̄˙) of a strip, as [pixels, row_of(depth)].
template <bool TANGENT> __device__ __forceinline__ void load_adjoint(const Stage& s, const Strip& strip) {
    const Branch& b = s.branch;
    const u32 wide = s.depth / VECTOR;
#pragma unroll 1
    for (u32 i = thread(); i < strip.pixels() * wide; i += THREADS) {
        const u32 c = VECTOR * (i % wide), u = i / wide;
        const u32 y = (u32)strip.y(u), x = (u32)strip.x(u);
        Lanes<VECTOR> bar = splat<VECTOR>(0.0f), bar_dot = bar;
        if (c < b.channels) {
            const u32 pixel = (s.tile.image * b.height + y) * b.width + x;
            adjoint<TANGENT, VECTOR>(b.adjoint, room(s.group.table), b.channels, pixel, c, bar, bar_dot);
        }
        const u32 to = u * row_of(s.depth) + c;
        store<VECTOR>(room(s.group.z + to), bar);
        if constexpr (TANGENT) store<VECTOR>(room(s.z_dot + to), bar_dot);
    }
}

// Adds to w̄ what the strip's outputs give that are this tile's own: Σ d̄[o]·a[o + tap], and in
// tangent_backward Σ d̄˙·a + d̄·ȧ.
template <int K, bool TANGENT> __device__ __forceinline__ void tap_sums(const Stage& s, const Strip& strip) {
    constexpr int W = K > most_taps(TANGENT) ? (K + 1) / 2 : K, SEGMENTS = (K + W - 1) / W;
    const u32 chunk = s.group.chunk;
    const TapRows share(K, most_taps(TANGENT), chunk);
    const u32 id = thread(), lane = id & 31, in_warp = 32 / share.wide;
    const Rectangle &around = s.around, &reach = s.tile.reach;
    Rectangle own = s.own;
    clip(max(own.top, strip.top()), min(own.top + (int)own.height, strip.top() + (int)strip.height()), s.branch.height,
         own.top, own.height);
    if (own.pixels() == 0) return;
#pragma unroll 1
    for (u32 job = id >> 5; job < share.jobs; job += THREADS / 32) {
        const u32 part = job % share.parts, slice = job / share.parts % share.slices;
        const int segment = (int)(job / share.parts / share.slices), ky = segment / SEGMENTS, begin = segment % SEGMENTS * W;
        const u32 q4 = 4 * (32 * slice + lane % share.wide);
        const u32 target = s.group.taps + ((part * K + ky) * K + begin) * chunk + q4;
        Lanes<4> sum[W];
#pragma unroll
        for (int i = 0; i < W; ++i) sum[i] = splat<4>(0.0f);
        if (q4 < chunk) {
            const int dilation = (int)s.branch.dilation, stride = (int)s.branch.stride, padding = (int)s.branch.padding;
            const u32 step = (u32)dilation * chunk, bar = s.group.bar + bar_at(s, strip, own.top, own.left) + q4;
            const int top = own.top * stride + ky * dilation - padding - reach.top;
            const int left = own.left * stride + begin * dilation - padding - reach.left;
#pragma unroll 1
            for (u32 o = part * in_warp + lane / share.wide; o < own.pixels(); o += share.parts * in_warp) {
                const u32 y = o / own.width, x = o % own.width;
                const u32 line = y * (u32)stride + (u32)top;
                if (line >= reach.height) continue;
                const float* from = room(bar + (y * around.width + x) * chunk);
                const float* a = room((line * reach.width + x * (u32)stride + (u32)left) * chunk + q4);
                const Lanes<4> adjoint = quad(from);
                Lanes<4> adjoint_dot;
                if constexpr (TANGENT) adjoint_dot = quad(from + (s.bar_dot - s.group.bar));
#pragma unroll
                for (int i = 0; i < W; ++i) {
                    if (begin + i < K) {
                        if constexpr (TANGENT) {
                            multiply_add(sum[i], adjoint_dot, quad(a));
                            multiply_add(sum[i], adjoint, quad(a + s.state_dot));
                        } else {
                            multiply_add(sum[i], adjoint, quad(a));
                        }
                    }
                    a += step;
                }
            }
        }
        for (u32 d = 16; d >= share.wide; d >>= 1) {
#pragma unroll
            for (int i = 0; i < W; ++i) {
#pragma unroll
                for (int k = 0; k < 4; ++k) sum[i][k] += __shfl_xor_sync(0xffffffffu, sum[i][k], d);
            }
        }
        if (lane < share.wide && q4 < chunk) {
#pragma unroll
            for (int i = 0; i < W; ++i)
                if (begin + i < K) store_or_add<4>(room(target + i * chunk), sum[i], true);
        }
    }
}

// The tile's rows that windows of the strip's outputs reach.
__device__ __forceinline__ void reached(const Stage& s, const Strip& strip, int& top, u32& height) {
    const Rectangle& own = s.tile.own;
    const int stride = (int)s.branch.stride, padding = (int)s.branch.padding;
    clip(max(own.top, strip.top() * stride - padding),
         min(own.top + (int)own.height, (strip.top() + (int)strip.height() - 1) * stride + padding + 1), s.group.height, top,
         height);
}

// Adds to ā what the strip's outputs give: ā[s·o + tap] += d̄[o]·w_tap at the tile's pixels, two a thread;
// in tangent_backward ā˙ += d̄˙ ⋆ᵀ w + d̄ ⋆ᵀ ẇ.
template <bool TANGENT> __device__ __forceinline__ void transpose(const Stage& s, const Strip& strip) {
    const Place at(s.group.chunk);
    if (at.row >= at.rows) return;
    const u32 chunk = s.group.chunk, q4 = 4 * at.q;
    const int padding = (int)s.branch.padding, odd = (int)s.branch.stride - 1;
    const Rectangle& own = s.tile.own;
    int top;
    u32 height;
    reached(s, strip, top, height);
    const u32 count = height * own.width, span = span_of<2>(count);
#pragma unroll 1
    for (u32 i = at.row; i < span; i += at.rows) {
        const float *w = room(s.group.weights + q4), *end = room(s.w_dot);
        Lanes<4> sum[2] = {splat<4>(0.0f), splat<4>(0.0f)};
        // Rows and columns of what the first tap reads, times the stride.
        int y[2], x[2];
#pragma unroll
        for (int n = 0; n < 2; ++n) {
            const u32 v = min(i + n * span, count - 1);
            y[n] = top + (int)(v / own.width) + padding, x[n] = own.left + (int)(v % own.width) + padding;
        }
#pragma unroll 1
        while (w < end) {
            u32 row[2]; // of d̄, in floats of shared memory
            bool in[2];
#pragma unroll
            for (int n = 0; n < 2; ++n) {
                const u32 line = (u32)(floor_half(y[n], s.branch.stride) - strip.top());
                in[n] = line < strip.height() && (y[n] & odd) == 0;
                row[n] = s.group.bar + (line * s.around.width - (u32)s.around.left) * chunk + q4;
            }
            if (in[0] || in[1]) {
#pragma unroll 1
                for (u32 kx = 0; kx < s.branch.kernel; ++kx) {
                    const Lanes<4> weight = quad(w + kx * chunk);
#pragma unroll
                    for (int n = 0; n < 2; ++n) {
                        const int column = x[n] - (int)(kx * s.branch.dilation);
                        if (in[n] && (column & odd) == 0) {
                            const float* bar = room(row[n] + (u32)floor_half(column, s.branch.stride) * chunk);
                            const Lanes<4> adjoint = quad(bar);
                            if constexpr (TANGENT) {
                                multiply_add(sum[n], quad(bar + (s.bar_dot - s.group.bar)), weight);
                                multiply_add(sum[n], adjoint, quad(w + (s.w_dot - s.group.weights) + kx * chunk));
                            } else {
                                multiply_add(sum[n], adjoint, weight);
                            }
                        }
                    }
                }
            }
            w += s.branch.kernel * chunk;
#pragma unroll
            for (int n = 0; n < 2; ++n) y[n] -= (int)s.branch.dilation;
        }
        const u32 to = s.group.sum + (u32)(top - own.top) * own.width * chunk + q4;
#pragma unroll
        for (int n = 0; n < 2; ++n) {
            const u32 v = i + n * span;
            if (v < count) store_or_add<4>(room(to + v * chunk), sum[n], true);
        }
    }
}

// Sets `len` floats of shared memory, whole quads, to zero.
__device__ __forceinline__ void clear(float* to, u32 len) {
    for (u32 i = 4 * thread(); i < len; i += 4 * THREADS) store<4>(to + i, splat<4>(0.0f));
}

// Adds the sum of `parts` tables of `len` floats in shared memory, whole quads, to a slot's part; or
// writes it, for a block's first tile.
__device__ __forceinline__ void flush(const float* from, u32 parts, u32 len, float* slot, bool adds) {
#pragma unroll 1
    for (u32 i = 4 * thread(); i < len; i += 4 * THREADS) {
        Lanes<4> sum = quad(from + i);
        for (u32 part = 1; part < parts; ++part) {
            const Lanes<4> more = quad(from + part * len + i);
#pragma unroll
            for (int k = 0; k < 4; ++k) sum[k] += more[k];
        }
        store_or_add<4>(slot + i, sum, adds);
    }
}

// For e < len: each(e, Σ over `slots` of from[s·pitch + e]) in double, by the whole block; len is whole quads.
// Threads take neighbouring quads of every so-manieth slot, and a tree over shared memory ends it.
// `scratch` holds 4·THREADS doubles.
template <class Each>
__device__ __forceinline__ void
sum_slots(const float* from, u32 slots, u32 pitch, u32 len, double* scratch, Each each) {
    u32 wide = 32;
    while (wide < 128 && 4 * wide < len) wide <<= 1;
    const u32 id = thread(), deep = THREADS / wide, column = id % wide, row = id / wide;
    double* own = scratch + id;
#pragma unroll 1
    for (u32 first = 0; first < len; first += 4 * wide) {
        const u32 e = first + 4 * column;
        double sum[4] = {0.0, 0.0, 0.0, 0.0};
        if (e < len) {
#pragma unroll 4
            for (u32 s = row; s < slots; s += deep) {
                const float4 x = __ldcg(reinterpret_cast<const float4*>(from + (u64)s * pitch + e));
                sum[0] += x.x, sum[1] += x.y, sum[2] += x.z, sum[3] += x.w;
            }
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < 4; ++k) own[k * THREADS] = sum[k];
        for (u32 half = deep >> 1; half > 0; half >>= 1) {
            __syncthreads();
            if (row < half) {
#pragma unroll
                for (int k = 0; k < 4; ++k) own[k * THREADS] += own[k * THREADS + half * wide];
            }
        }
        if (row == 0 && e < len) {
#pragma unroll
            for (int k = 0; k < 4; ++k) each(e + k, (float)own[k * THREADS]);
        }
    }
    __syncthreads();
}

// Finds which part of its group a backward block takes; a barrier must follow.
__device__ __forceinline__ void set_share(const Separable& p, Stage& stage) {
    if (threadIdx.x != 0) return;
    const Group& g = stage.group;
    const u32 chunks = (g.channels + g.chunk - 1) / g.chunk, block = blockIdx.x - g.first_block;
    const u32 set = block / chunks, part = block % chunks;
    stage.share = {at(p.workspace) + g.partials, set, g.blocks / chunks, part, part * g.chunk, set};
}

// Sums a branch's gradients over the slots, by the last block that has its share: w̄ [k², chunk], then
// P̄ [chunk, depth], of the block's chunk.
__device__ __forceinline__ void combine_gradients(const Separable& p, const Stage& s) {
    const Share& share = s.share;
    const Branch& b = s.branch;
    const u32 chunk = s.group.chunk, channels = s.group.channels, c0 = share.c0;
    const ProductTable table(chunk, s.depth);
    const u32 tail = s.taps * chunk, len = tail + table.len;
    if (!last_block(at(p.tickets) + b.ticket + share.part, share.sets)) return;
    double* scratch = reinterpret_cast<double*>(room(s.group.d));
    const float* from = share.slots + b.partial + share.part * len;
    sum_slots(from, share.sets, s.group.slot, len, scratch, [&](u32 e, float sum) {
        if (e < tail) {
            const u32 c = c0 + e % chunk;
            if (c < channels) at(b.depthwise_gradient)[e / chunk * channels + c] = sum;
        } else {
            const u32 row = table.channel_in(e - tail), c = c0 + row, o = table.channel_out(e - tail);
            if (row < chunk && c < channels && o < b.channels) at(b.pointwise_gradient)[c * b.channels + o] = sum;
        }
    });
}

// The same of the sums over x̄, which are added to what other readers of x̂ left.
__device__ __forceinline__ void combine_sums(const Separable& p, const Stage& s) {
    const Share& share = s.share;
    const Group& g = s.group;
    if (!last_block(at(p.tickets) + g.ticket + share.part, share.sets)) return;
    double* scratch = reinterpret_cast<double*>(room(g.d));
    const float* from = share.slots + g.slot_sums + share.part * 2 * g.chunk;
    sum_slots(from, share.sets, g.slot, 2 * g.chunk, scratch, [&](u32 e, float sum) {
        const u32 c = share.c0 + e % g.chunk;
        if (c < g.channels) at(g.sums)[e / g.chunk * padded(g.channels) + c] += sum;
    });
}

// Everything of one branch on one tile and chunk: its weights' gradients, and its share of ā.
template <bool TANGENT>
__device__ __forceinline__ void branch_adjoint(const Stage& s) {
    const Share& share = s.share;
    const Group& g = s.group;
    const Branch& b = s.branch;
    const u32 c0 = share.c0;
    load_depthwise(at(b.depthwise), s.taps, c0, g.channels, g.chunk, room(g.weights));
    load_pointwise<true>(s, at(b.pointwise), c0, room(s.pointwise));
    if constexpr (TANGENT) {
        load_depthwise(at(b.depthwise_tangent), s.taps, c0, g.channels, g.chunk, room(s.w_dot));
        load_pointwise<true>(s, at(b.pointwise_tangent), c0, room(s.pointwise_dot));
    }
    clear(room(g.taps), s.parts * s.taps * g.chunk);
    clear(room(g.bar), (TANGENT ? 2 : 1) * g.region * g.chunk); // for the columns outside the image
    clear(room(g.products), ProductTable(g.chunk, s.depth).floats());
    prepare<TANGENT>(b.adjoint, b.channels, room(g.table));
#pragma unroll 1
    for (u32 first = 0; first < s.inside.height; first += b.lines) {
        if constexpr (TANGENT) asm volatile("" : "+r"(first)); // else the compiler keeps −first beside it
        const Strip strip{s.inside, first, b.lines};
        depthwise<TANGENT, TANGENT ? 1 : 2>(s, strip, 0);
        load_adjoint<TANGENT>(s, strip);
        __syncthreads();
        pointwise_transposed<TANGENT>(s, strip);
        outer_product<TANGENT>(s, strip.pixels());
        __syncthreads();
        FOR_KERNEL(b, (tap_sums<K, TANGENT>(s, strip)));
        transpose<TANGENT>(s, strip);
    }
    __syncthreads();
    const ProductTable table(g.chunk, s.depth); // not kept over the loop, where registers are dear
    const u32 taps = s.taps * g.chunk;
    float* slot = share.slots + share.set * g.slot + b.partial + share.part * (taps + table.len);
    flush(room(g.taps), s.parts, taps, slot, share.tile != share.set);
    flush(room(g.products), table.parts, table.len, slot + taps, share.tile != share.set);
}

// Hands ā on: x̄ = 1[a > 0] ∘ ā to memory, and to the slot Σ x̄ and Σ x̄·a (in tangent_backward
// Σ x̄˙ and Σ x̄˙·a + x̄·ȧ), which are sums over x̂, because where the mask is open a = x̂.
template <bool TANGENT>
__device__ __forceinline__ void input_adjoint(const Stage& s) {
    const Share& share = s.share;
    const Group& g = s.group;
    const Tile& tile = s.tile;
    const Place place(g.chunk);
    const u32 q = place.q, c = share.c0 + 4 * q, count = place.row < place.rows ? tile.own.pixels() : 0;
    const float *a = room(0), *a_dot = room(tile.reach.pixels() * g.chunk);
    Lanes<4> sums[2] = {splat<4>(0.0f), splat<4>(0.0f)};
#pragma unroll 1
    for (u32 i = place.row; i < count; i += place.rows) {
        const int y = tile.own.top + (int)(i / tile.own.width), x = tile.own.left + (int)(i % tile.own.width);
        const u32 from = (u32)tile.reach.at(y, x) * g.chunk + 4 * q;
        const u32 pixel = (tile.image * g.height + (u32)y) * g.width + (u32)x;
        const Lanes<4> state = quad(a + from);
        Lanes<4> bar = quad(room(g.sum + i * g.chunk + 4 * q));
#pragma unroll
        for (int k = 0; k < 4; ++k) bar[k] = state[k] > 0.0f ? bar[k] : 0.0f;
        bar = as_stored(bar);
#pragma unroll
        for (int k = 0; k < 4; ++k) sums[0][k] += bar[k];
        multiply_add(sums[1], bar, state);
        if constexpr (TANGENT) {
            if (g.first_order.data)
                multiply_add(sums[1], load_quad(at(g.first_order, pixel), c, g.channels), quad(a_dot + from));
        }
        store_quad(at(g.adjoint, pixel), c, g.channels, bar, g.adds);
    }
    if (!g.sums.data) return;
    float* gathered = room(g.d);
    write_sums<4, 2>(sums, q, place.row, place.rows, g.chunk, gathered + 2 * g.chunk, gathered);
    __syncthreads();
    float* slot = share.slots + share.set * g.slot + g.slot_sums + share.part * 2 * g.chunk;
    flush(gathered, 1, 2 * g.chunk, slot, share.tile != share.set);
}

// All branches of a group over the block's tiles and channels. Blocks begin at different branches, so that
// those that combine gradients are different ones.
template <bool TANGENT> __device__ __forceinline__ void adjoints(const Separable& p) {
    __shared__ Stage stage;
    set_group(p, stage);
    const Group& g = stage.group;
    const Share& share = stage.share;
    set_share(p, stage);
    __syncthreads();
#pragma unroll 1
    while (share.tile < g.tiles) {
        if (threadIdx.x == 0) stage.tile = tile_of(g, share.tile);
        __syncthreads();
        load_state<TANGENT>(stage, share.c0);
        clear(room(g.sum), stage.tile.own.pixels() * g.chunk);
#pragma unroll 1
        for (u32 turn = 0; turn < g.branches; ++turn) {
            set_branch<TANGENT, true>(p.branches[g.first_branch + (turn + share.set) % g.branches], stage);
            __syncthreads();
            branch_adjoint<TANGENT>(stage);
            if (share.tile + share.sets >= g.tiles) combine_gradients(p, stage);
            __syncthreads();
        }
        if (g.adjoint.data) {
            input_adjoint<TANGENT>(stage);
            if (share.tile + share.sets >= g.tiles && g.sums.data) combine_sums(p, stage);
        }
        __syncthreads();
        if (threadIdx.x == 0) stage.share.tile += share.sets;
        __syncthreads();
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2) separable_backward(const __grid_constant__ Separable p) {
    BEGIN(p);
    adjoints<false>(p);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
separable_tangent_backward(const __grid_constant__ Separable p) {
    BEGIN(p);
    adjoints<true>(p);
}
