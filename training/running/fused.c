/* The Mamba-1 recurrence and its adjoint in one pass over memory each; `mambascope.operators.recurrence` is the specification.

   All arrays are float32 and contiguous: v, step, out (b, L, D); A (N, D), channels innermost; write, read (b, L, N);
   states (b, ceil(L / SEGMENT), N, D), the state before every SEGMENT-th token, from which the adjoint computes the rest again. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define SEGMENT 8

/* exp for the arguments that occur (at most 0), to 2e-7: the compiler can run it on whole vectors, unlike the library's. */
static inline float exp_of_negative(float x) {
  x = x < -87.0f ? -87.0f : x;
  float z = x * 1.44269504f;
  int32_t k = (int32_t)(z - 0.5f);
  float f = (x - k * 0.693145752f) - k * 1.42860677e-6f;
  float p = 1.0f + f * (1.0f + f * (0.5f + f * (0.166666567f + f * (0.0416664217f + f * (0.00833452f + f * 0.00139f)))));
  union { int32_t i; float f; } scale = {(k + 127) << 23};
  return p * scale.f;
}

/* Memory for so many numbers, aligned to a cache line: vectors that straddle two lines take twice the time. */
static float *buffer(int64_t count) { return aligned_alloc(64, (count * sizeof(float) + 63) / 64 * 64); }

void channel_forward(int64_t b, int64_t L, int64_t D, int64_t N, const float *restrict v, const float *restrict step,
                     const float *restrict A, const float *restrict write, const float *restrict read, float *restrict out,
                     float *restrict states) {
  int64_t segments = (L + SEGMENT - 1) / SEGMENT, size = N * D;
  float *restrict h = buffer(size);
  for (int64_t i = 0; i < b; i++) {
    memset(h, 0, size * sizeof(float));
    for (int64_t t = 0; t < L; t++) {
      int64_t at = i * L + t;
      const float *restrict vt = v + at * D, *restrict st = step + at * D;
      float *restrict ot = out + at * D;
      if (t % SEGMENT == 0) memcpy(states + (i * segments + t / SEGMENT) * size, h, size * sizeof(float));
      memset(ot, 0, D * sizeof(float));
      for (int64_t n = 0; n < N; n++) {
        float w = write[at * N + n], r = read[at * N + n];
        const float *restrict An = A + n * D;
        float *restrict hn = h + n * D;
        for (int64_t d = 0; d < D; d++) {
          float now = exp_of_negative(st[d] * An[d]) * hn[d] + w * vt[d];
          hn[d] = now;
          ot[d] += r * now;
        }
      }
    }
  }
  free(h);
}

void channel_backward(int64_t b, int64_t L, int64_t D, int64_t N, const float *restrict v, const float *restrict step,
                      const float *restrict A, const float *restrict write, const float *restrict read,
                      const float *restrict states, const float *restrict dout, float *restrict dv, float *restrict dstep,
                      float *restrict dA, float *restrict dwrite, float *restrict dread) {
  int64_t segments = (L + SEGMENT - 1) / SEGMENT, size = N * D;
  float *restrict decay = buffer(SEGMENT * size);
  float *restrict h = buffer((SEGMENT + 1) * size);
  float *restrict adjoint = buffer(size);
  memset(dA, 0, size * sizeof(float));
  for (int64_t i = 0; i < b; i++) {
    memset(adjoint, 0, size * sizeof(float));
    for (int64_t s = segments - 1; s >= 0; s--) {
      int64_t first = s * SEGMENT, last = first + SEGMENT < L ? first + SEGMENT : L;
      memcpy(h, states + (i * segments + s) * size, size * sizeof(float));
      for (int64_t t = first; t < last; t++) {
        int64_t at = i * L + t;
        const float *restrict vt = v + at * D, *restrict st = step + at * D;
        for (int64_t n = 0; n < N; n++) {
          float w = write[at * N + n];
          const float *restrict An = A + n * D, *restrict before = h + (t - first) * size + n * D;
          float *restrict dn = decay + (t - first) * size + n * D, *restrict now = h + (t - first + 1) * size + n * D;
          for (int64_t d = 0; d < D; d++) {
            float a = exp_of_negative(st[d] * An[d]);
            dn[d] = a;
            now[d] = a * before[d] + w * vt[d];
          }
        }
      }
      for (int64_t t = last - 1; t >= first; t--) {
        int64_t at = i * L + t;
        const float *restrict vt = v + at * D, *restrict st = step + at * D, *restrict dot = dout + at * D;
        float *restrict dvt = dv + at * D, *restrict dst = dstep + at * D;
        memset(dvt, 0, D * sizeof(float));
        memset(dst, 0, D * sizeof(float));
        for (int64_t n = 0; n < N; n++) {
          float w = write[at * N + n], r = read[at * N + n], dw = 0, dr = 0;
          const float *restrict An = A + n * D, *restrict dn = decay + (t - first) * size + n * D;
          const float *restrict before = h + (t - first) * size + n * D, *restrict now = before + size;
          float *restrict adj = adjoint + n * D, *restrict dAn = dA + n * D;
          for (int64_t d = 0; d < D; d++) {
            float lambda = adj[d] + r * dot[d], pulled = lambda * dn[d], flow = pulled * before[d];
            dr += dot[d] * now[d];
            dw += vt[d] * lambda;
            dvt[d] += w * lambda;
            dst[d] += flow * An[d];
            dAn[d] += flow * st[d];
            adj[d] = pulled;
          }
          dwrite[at * N + n] = dw;
          dread[at * N + n] = dr;
        }
      }
    }
  }
  free(decay);
  free(h);
  free(adjoint);
}

/* The Mamba-2 recurrence with one group. v, out (b, L, H, P), P a multiple of 16; step (b, L, H); A (H); write, read (b, L, N);
   states (b, H, ceil(L / SEGMENT), N, P). */

typedef float vec __attribute__((vector_size(64), aligned(4)));
#define LANES 16

void head_forward(int64_t b, int64_t L, int64_t H, int64_t P, int64_t N, const float *restrict v, const float *restrict step,
                  const float *restrict A, const float *restrict write, const float *restrict read, float *restrict out,
                  float *restrict states) {
  int64_t segments = (L + SEGMENT - 1) / SEGMENT, size = N * P;
  float *restrict h = buffer(size);
  for (int64_t i = 0; i < b; i++)
    for (int64_t k = 0; k < H; k++) {
      memset(h, 0, size * sizeof(float));
      for (int64_t t = 0; t < L; t++) {
        int64_t at = i * L + t;
        float a = exp_of_negative(step[at * H + k] * A[k]);
        if (t % SEGMENT == 0) memcpy(states + ((i * H + k) * segments + t / SEGMENT) * size, h, size * sizeof(float));
        for (int64_t p = 0; p < P; p += 4 * LANES) {
          int64_t vectors = (P - p) / LANES < 4 ? (P - p) / LANES : 4;
          const vec *restrict vt = (const vec *)(v + (at * H + k) * P + p);
          vec *restrict ot = (vec *)(out + (at * H + k) * P + p);
          if (vectors == 4) {
            vec v0 = vt[0], v1 = vt[1], v2 = vt[2], v3 = vt[3], o0 = {0}, o1 = {0}, o2 = {0}, o3 = {0};
            for (int64_t n = 0; n < N; n++) {
              vec *restrict hn = (vec *)(h + n * P + p);
              float w = write[at * N + n], r = read[at * N + n];
              vec h0 = hn[0] * a + v0 * w, h1 = hn[1] * a + v1 * w, h2 = hn[2] * a + v2 * w, h3 = hn[3] * a + v3 * w;
              hn[0] = h0, hn[1] = h1, hn[2] = h2, hn[3] = h3;
              o0 += h0 * r, o1 += h1 * r, o2 += h2 * r, o3 += h3 * r;
            }
            ot[0] = o0, ot[1] = o1, ot[2] = o2, ot[3] = o3;
          } else
            for (int64_t j = 0; j < vectors; j++) {
              vec o = {0};
              for (int64_t n = 0; n < N; n++) {
                vec *restrict hn = (vec *)(h + n * P + p) + j;
                *hn = *hn * a + vt[j] * write[at * N + n];
                o += *hn * read[at * N + n];
              }
              ot[j] = o;
            }
        }
      }
    }
  free(h);
}

static inline float total(vec x) {
  typedef int32_t lanes __attribute__((vector_size(64)));
  x += __builtin_shuffle(x, (lanes){8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15});
  x += __builtin_shuffle(x, (lanes){4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7, 4, 5, 6, 7});
  return x[0] + x[1] + x[2] + x[3];
}

/* One token's adjoint for up to four vectors of one head's channels. */
static inline __attribute__((always_inline)) void pull_back_some(
    int vectors, int64_t N, int64_t P, float a, const vec *restrict v, const vec *restrict dout, const float *restrict before,
    const float *restrict now, float *restrict adjoint, const float *restrict write, const float *restrict read,
    vec *restrict dv, float *restrict dwrite, float *restrict dread, vec *restrict da) {
  vec pulled[4] = {{0}}, decayed[4] = {{0}};
  for (int64_t n = 0; n < N; n++) {
    const vec *restrict hb = (const vec *)(before + n * P), *restrict hn = (const vec *)(now + n * P);
    vec *restrict adj = (vec *)(adjoint + n * P), dw = {0}, dr = {0};
#pragma GCC unroll 4
    for (int j = 0; j < vectors; j++) {
      vec lambda = adj[j] + dout[j] * read[n];
      dr += dout[j] * hn[j];
      dw += v[j] * lambda;
      pulled[j] += lambda * write[n];
      decayed[j] += lambda * hb[j];
      adj[j] = lambda * a;
    }
    dwrite[n] += total(dw);
    dread[n] += total(dr);
  }
  for (int j = 0; j < vectors; j++) {
    dv[j] = pulled[j];
    *da += decayed[j];
  }
}

static void pull_back(int64_t vectors, int64_t N, int64_t P, float a, const vec *v, const vec *dout, const float *before,
                      const float *now, float *adjoint, const float *write, const float *read, vec *dv, float *dwrite,
                      float *dread, vec *da) {
  if (vectors == 4)
    pull_back_some(4, N, P, a, v, dout, before, now, adjoint, write, read, dv, dwrite, dread, da);
  else
    for (int64_t j = 0; j < vectors; j++)
      pull_back_some(1, N, P, a, v + j, dout + j, before + j * LANES, now + j * LANES, adjoint + j * LANES, write, read, dv + j,
                     dwrite, dread, da);
}

void head_backward(int64_t b, int64_t L, int64_t H, int64_t P, int64_t N, const float *restrict v, const float *restrict step,
                   const float *restrict A, const float *restrict write, const float *restrict read,
                   const float *restrict states, const float *restrict dout, float *restrict dv, float *restrict dstep,
                   float *restrict dA, float *restrict dwrite, float *restrict dread) {
  int64_t segments = (L + SEGMENT - 1) / SEGMENT, size = N * P;
  float *restrict h = buffer((SEGMENT + 1) * size);
  float *restrict adjoint = buffer(size);
  memset(dA, 0, H * sizeof(float));
  memset(dwrite, 0, b * L * N * sizeof(float));
  memset(dread, 0, b * L * N * sizeof(float));
  for (int64_t i = 0; i < b; i++)
    for (int64_t k = 0; k < H; k++) {
      memset(adjoint, 0, size * sizeof(float));
      for (int64_t s = segments - 1; s >= 0; s--) {
        int64_t first = s * SEGMENT, last = first + SEGMENT < L ? first + SEGMENT : L;
        memcpy(h, states + ((i * H + k) * segments + s) * size, size * sizeof(float));
        for (int64_t t = first; t < last; t++) {
          int64_t at = i * L + t;
          float a = exp_of_negative(step[at * H + k] * A[k]);
          const vec *restrict vt = (const vec *)(v + (at * H + k) * P);
          const float *restrict before = h + (t - first) * size;
          float *restrict now = h + (t - first + 1) * size;
          for (int64_t n = 0; n < N; n++) {
            float w = write[at * N + n];
            for (int64_t j = 0; j < P / LANES; j++)
              ((vec *)(now + n * P))[j] = ((const vec *)(before + n * P))[j] * a + vt[j] * w;
          }
        }
        for (int64_t t = last - 1; t >= first; t--) {
          int64_t at = i * L + t;
          float a = exp_of_negative(step[at * H + k] * A[k]);
          const float *restrict before = h + (t - first) * size, *restrict now = before + size;
          vec da = {0};
          for (int64_t p = 0; p < P; p += 4 * LANES) {
            int64_t vectors = (P - p) / LANES < 4 ? (P - p) / LANES : 4;
            pull_back(vectors, N, P, a, (const vec *)(v + (at * H + k) * P + p), (const vec *)(dout + (at * H + k) * P + p),
                      before + p, now + p, adjoint + p, write + at * N, read + at * N, (vec *)(dv + (at * H + k) * P + p),
                      dwrite + at * N, dread + at * N, &da);
          }
          float flow = a * total(da);
          dstep[at * H + k] = flow * A[k];
          dA[k] += flow * step[at * H + k];
        }
      }
    }
  free(h);
  free(adjoint);
}
