/* Decimal text -> numbers, exactly. Untrusted bytes in; no locale, no allocation, no NUL needed.
 *
 *     number  = [+-] digits [. digits] [e [+-] digits]  |  [+-] digits i  |  [+] digits u        (`.5` and `5.` are numbers)
 *
 * A decimal becomes the correctly rounded double, in three steps of falling speed:
 *     w < 2^53, |e| <= 22     one exact multiplication or division of doubles (both operands are exact)
 *     w < 10^19, |e| <= 27    128-bit integers: 5^27 < 2^63, so the product or the quotient with its remainder is exact,
 *                             and one conversion rounds it
 *     else                    strtod in the C locale, of at most MS_DIGITS_MAX digits and a sticky one
 */
#ifndef MSTORE_DECIMAL_H
#define MSTORE_DECIMAL_H
#include <locale.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MS_NUM_BAD = 0, MS_NUM_DECIMAL = 1, MS_NUM_INT = 2, MS_NUM_UINT = 3 };
#define MS_DIGITS_MAX 800            /* 768 significant digits and a sticky one decide every double */
#define MS_EXPONENT_MAX 10000000     /* far beyond any line's digits: larger exponents mean the same */

static const double ms_p10[23] = {1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                  1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
static const uint64_t ms_p5[28] = {
    1u, 5u, 25u, 125u, 625u, 3125u, 15625u, 78125u, 390625u, 1953125u, 9765625u, 48828125u, 244140625u, 1220703125u,
    6103515625ull, 30517578125ull, 152587890625ull, 762939453125ull, 3814697265625ull,
    19073486328125ull, 95367431640625ull, 476837158203125ull, 2384185791015625ull,
    11920928955078125ull, 59604644775390625ull, 298023223876953125ull,
    1490116119384765625ull, 7450580596923828125ull};
static locale_t ms_c_locale;

/* Once in a module that calls ms_number_f64. */
static int ms_decimal_init(void) {
    ms_c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    return ms_c_locale ? 0 : -1;
}

static inline int ms_digit(uint8_t c) { return (uint8_t)(c - '0') <= 9; }

/* Which kind of number s[0..n) is, MS_NUM_BAD when none. */
static inline int ms_number_class(const uint8_t *s, size_t n) {
    size_t i = 0, digits = 0, at;
    int sign = 0, point = 0;
    if (i < n && (s[i] == '+' || s[i] == '-')) { sign = s[i] == '-'; i++; }
    while (i < n && ms_digit(s[i])) { i++; digits++; }
    if (i < n && s[i] == '.') {
        point = 1;
        i++;
        while (i < n && ms_digit(s[i])) { i++; digits++; }
    }
    if (digits == 0) return MS_NUM_BAD;
    if (i == n) return MS_NUM_DECIMAL;
    if (!point && i + 1 == n && s[i] == 'i') return MS_NUM_INT;
    if (!point && i + 1 == n && s[i] == 'u' && !sign) return MS_NUM_UINT;
    if (s[i] != 'e' && s[i] != 'E') return MS_NUM_BAD;
    i++;
    if (i < n && (s[i] == '+' || s[i] == '-')) i++;
    at = i;
    while (i < n && ms_digit(s[i])) i++;
    return i == n && i > at ? MS_NUM_DECIMAL : MS_NUM_BAD;
}

/* A decimal taken apart: its value is digits * 10^exp10, the digits without leading and trailing zeros. */
typedef struct {
    const uint8_t *first, *last;     /* first and last digit that is not 0, possibly with the point between; NULL = zero */
    int64_t n_digits;                /* from first to last, the point not counted */
    int64_t exp10;
    int negative;
} ms_decimal;

static inline void ms_decimal_split(const uint8_t *s, size_t n, ms_decimal *d) {
    size_t i = 0;
    int64_t position = 0, point = -1, at_first = 0, at_last = 0, exponent = 0;
    memset(d, 0, sizeof *d);
    if (s[0] == '+' || s[0] == '-') { d->negative = s[0] == '-'; i++; }
    for (; i < n && (ms_digit(s[i]) || s[i] == '.'); i++) {
        if (s[i] == '.') { point = position; continue; }
        if (s[i] != '0') {
            if (!d->first) { d->first = s + i; at_first = position; }
            d->last = s + i;
            at_last = position;
        }
        position++;
    }
    if (point < 0) point = position;
    if (i < n && (s[i] == 'e' || s[i] == 'E')) {
        int minus = i + 1 < n && s[i + 1] == '-';
        i += 1 + (i + 1 < n && (s[i + 1] == '-' || s[i + 1] == '+'));
        for (; i < n; i++) if (exponent < MS_EXPONENT_MAX) exponent = exponent * 10 + (s[i] - '0');
        if (minus) exponent = -exponent;
    }
    if (d->first) {
        d->n_digits = at_last - at_first + 1;
        d->exp10 = exponent + point - at_last - 1;
    }
}

static inline uint64_t ms_decimal_w(const ms_decimal *d) {   /* n_digits <= 19 */
    uint64_t w = 0;
    for (const uint8_t *p = d->first; p && p <= d->last; p++) if (*p != '.') w = w * 10 + (*p - '0');
    return w;
}

static inline double ms_scale2(double x, int e) {   /* x * 2^e, -1022 <= e <= 1023 */
    uint64_t bits = (uint64_t)(e + 1023) << 52;
    double factor;
    memcpy(&factor, &bits, 8);
    return x * factor;
}

/* w * 10^e correctly rounded, for w > 0 and |e| <= 27. */
static inline double ms_exact_f64(uint64_t w, int e) {
    unsigned __int128 wide;
    uint64_t q;
    int shift;
    if (!(w >> 53) && e >= -22 && e <= 22) return e < 0 ? (double)w / ms_p10[-e] : (double)w * ms_p10[e];
    if (e >= 0) {
        wide = (unsigned __int128)w * ms_p5[e];
        shift = (uint64_t)(wide >> 64) ? 64 - __builtin_clzll((uint64_t)(wide >> 64)) : 0;
        q = (uint64_t)(wide >> shift);
        if (shift && (wide & (((unsigned __int128)1 << shift) - 1))) q |= 1;   /* sticky: q has 64 bits, a double keeps 53 */
        return ms_scale2((double)q, e + shift);
    }
    int zeros_w = __builtin_clzll(w), zeros_d = __builtin_clzll(ms_p5[-e]);
    uint64_t d = ms_p5[-e] << zeros_d;
    wide = (unsigned __int128)(w << zeros_w) << 63;
    q = (uint64_t)(wide / d);                                                  /* 63 or 64 bits */
    if (wide % d) q |= 1;
    return ms_scale2((double)q, zeros_d - zeros_w - 63 + e);
}

/* 0, or -1 when the value is beyond the largest double. `cls` is what ms_number_class said of the same bytes. */
static inline int ms_number_f64(const uint8_t *s, size_t n, int cls, double *out);

/* The value as a 64-bit magnitude: 0, or -1 when it is no integer, negative (-0 is not) or above `max`. */
static inline int ms_number_u64(const uint8_t *s, size_t n, int cls, uint64_t max, uint64_t *out) {
    ms_decimal d;
    unsigned __int128 wide;
    ms_decimal_split(s, cls == MS_NUM_DECIMAL ? n : n - 1, &d);
    *out = 0;
    if (!d.first) return 0;
    if (d.negative || d.exp10 < 0 || d.n_digits + d.exp10 > 20) return -1;
    wide = 0;
    for (const uint8_t *p = d.first; p <= d.last; p++) if (*p != '.') wide = wide * 10 + (*p - '0');
    for (int64_t i = 0; i < d.exp10; i++) wide *= 10;
    if (cls == MS_NUM_INT && wide > INT64_MAX) return -1;
    if (wide > max) return -1;
    *out = (uint64_t)wide;
    return 0;
}

static inline int ms_integer_f64(const uint8_t *s, size_t n, int cls, double *out) {
    uint64_t magnitude;
    int negative = s[0] == '-', sign = negative || s[0] == '+';
    uint64_t max = cls == MS_NUM_UINT ? UINT64_MAX : (uint64_t)INT64_MAX + negative;
    ms_decimal d;
    unsigned __int128 wide = 0;
    ms_decimal_split(s + sign, n - sign - 1, &d);
    if (d.n_digits + d.exp10 > 20) return -1;
    for (const uint8_t *p = d.first; p && p <= d.last; p++) wide = wide * 10 + (*p - '0');
    for (int64_t i = 0; i < d.exp10; i++) wide *= 10;
    if (wide > max) return -1;
    magnitude = (uint64_t)wide;
    *out = negative && magnitude ? -(double)magnitude : (double)magnitude;   /* -0i is the integer 0 */
    return 0;
}

static inline double ms_strtod(const ms_decimal *d) {
    char scratch[MS_DIGITS_MAX + 32];
    int used = 0;
    int64_t left = d->n_digits;
    for (const uint8_t *p = d->first; p <= d->last && used < MS_DIGITS_MAX; p++)
        if (*p != '.') { scratch[used++] = (char)*p; left--; }
    if (left) { scratch[used++] = '1'; left--; }   /* digits were cut, and the last of them is not 0: only that matters */
    snprintf(scratch + used, 32, "e%lld", (long long)(d->exp10 + left));
    return strtod_l(scratch, NULL, ms_c_locale);
}

static inline int ms_number_f64(const uint8_t *s, size_t n, int cls, double *out) {
    ms_decimal d;
    double value;
    if (cls != MS_NUM_DECIMAL) return ms_integer_f64(s, n, cls, out);
    ms_decimal_split(s, n, &d);
    if (!d.first) value = 0.0;
    else if (d.n_digits <= 19 && d.exp10 >= -27 && d.exp10 <= 27) value = ms_exact_f64(ms_decimal_w(&d), (int)d.exp10);
    else value = ms_strtod(&d);
    *out = d.negative ? -value : value;
    return isinf(value) ? -1 : 0;
}

/* ---- the fast path: a short plain number followed by a space ---- */

static inline uint64_t ms_load8(const uint8_t *p) { uint64_t x; memcpy(&x, p, 8); return x; }

#define MS_EVERY(c) (0x0101010101010101ull * (uint8_t)(c))
/* The high bit of every byte of x that equals c, exact up to and including the lowest such byte. */
static inline uint64_t ms_match(uint64_t x, uint8_t c) {
    uint64_t t = x ^ MS_EVERY(c);
    return (t - MS_EVERY(1)) & ~t & MS_EVERY(0x80);
}

/* Eight decimal digits, the first in the lowest byte, -> their value; *ok becomes 0 when one of them is no digit. */
static inline uint64_t ms_eight_digits(uint64_t x, int *ok) {
    uint64_t v = x - MS_EVERY('0');
    *ok = !(((x + MS_EVERY(0x46)) | v) & MS_EVERY(0x80));
    v = v * 10 + (v >> 8);
    return ((v & 0x000000FF000000FFull) * 0x000F424000000064ull
            + ((v >> 16) & 0x000000FF000000FFull) * 0x0000271000000001ull) >> 32;
}

/* Up to 18 digits with at most one point between or after them, or up to 7 digits and an `i`, ended by a space:
 * bytes before the space, *w the digits and *frac how many follow the point. 0 = not of this form (it may still be a
 * number). Reads at most 24 bytes. No branch depends on the number of digits while they fit eight bytes. */
static inline int ms_fast_number(const uint8_t *p, uint64_t *w, int *frac) {
    uint64_t x = ms_load8(p), space = ms_match(x, ' ');
    if (space) {
        int end = __builtin_ctzll(space) & 56;                   /* bits before the space */
        uint64_t in = ((uint64_t)1 << end) - 1, point = ms_match(x, '.') & in;
        int bits = end;
        *frac = 0;
        if (point) {
            int at = __builtin_ctzll(point) & 56;
            uint64_t before = ((uint64_t)1 << at) - 1;
            x = (x & before) | ((x >> 8) & ~before);
            bits -= 8;
            *frac = (bits - at) >> 3;
        } else if (end >= 16 && ((x >> (end - 8)) & 0xFF) == 'i') {
            bits -= 8;
        }
        if (bits <= 0) return 0;
        int ok;
        uint64_t pad = 64 - bits;
        x = (x << pad) | (pad ? MS_EVERY('0') >> bits : 0);
        *w = ms_eight_digits(x, &ok);
        return ok ? end >> 3 : 0;
    }
    uint64_t value = 0;
    int digits = 0, point = -1, i;
    for (i = 0; i < 20; i++) {
        uint8_t c = p[i];
        if (ms_digit(c)) { value = value * 10 + (c - '0'); digits++; }
        else if (c == '.' && point < 0) point = digits;
        else break;
    }
    if (p[i] != ' ' || digits == 0 || digits > 18) return 0;
    *w = value;
    *frac = point < 0 ? 0 : digits - point;
    return i;
}
#endif
