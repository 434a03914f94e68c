/** Sub-opcodes of WebAssembly's vector instructions (the 0xfd prefix), for `v128.un`, `bin`, `test`, `extract` and so on. */

/** Integer lanes of one width. Not every width has every operation; what is missing is -1 and must not be used. */
export interface IntLanes {
  readonly splat: number;
  readonly replace: number;
  readonly eq: number;
  readonly ne: number;
  readonly lt_s: number;
  readonly gt_s: number;
  readonly abs: number;
  readonly neg: number;
  readonly all_true: number;
  readonly bitmask: number;
  readonly shl: number;
  readonly shr_s: number;
  readonly shr_u: number;
  readonly add: number;
  readonly sub: number;
  readonly extend_low_s: number;
  readonly extend_low_u: number;
  readonly extend_high_s: number;
  readonly extend_high_u: number;
}

export const LOAD32_ZERO = 0x5c;
export const LOAD64_ZERO = 0x5d;
export const ANY_TRUE = 0x53;

export const I8X16 = {
  splat: 0x0f,
  extract_u: 0x16,
  replace: 0x17,
  eq: 0x23,
  ne: 0x24,
  lt_s: 0x25,
  gt_s: 0x27,
  gt_u: 0x28,
  abs: 0x60,
  neg: 0x61,
  all_true: 0x63,
  bitmask: 0x64,
  /** From i16x8, saturating. */
  narrow_s: 0x65,
  narrow_u: 0x66,
  shl: 0x6b,
  shr_s: 0x6c,
  shr_u: 0x6d,
  add: 0x6e,
  add_sat_s: 0x6f,
  add_sat_u: 0x70,
  sub: 0x71,
  sub_sat_s: 0x72,
  sub_sat_u: 0x73,
  min_s: 0x76,
  min_u: 0x77,
  max_s: 0x78,
  max_u: 0x79,
  avgr_u: 0x7b,
  extend_low_s: -1,
  extend_low_u: -1,
  extend_high_s: -1,
  extend_high_u: -1,
} as const satisfies IntLanes & Record<string, number>;

/** `extend_*`, `extadd_*` and `extmul_*` come from the lanes of half the width; `narrow_*` from those of twice the width. */
export const I16X8 = {
  splat: 0x10,
  extract_u: 0x19,
  replace: 0x1a,
  eq: 0x2d,
  ne: 0x2e,
  lt_s: 0x2f,
  gt_s: 0x31,
  extadd_pairwise_s: 0x7c,
  extadd_pairwise_u: 0x7d,
  abs: 0x80,
  neg: 0x81,
  q15mulr_sat_s: 0x82,
  all_true: 0x83,
  bitmask: 0x84,
  narrow_s: 0x85,
  narrow_u: 0x86,
  extend_low_s: 0x87,
  extend_high_s: 0x88,
  extend_low_u: 0x89,
  extend_high_u: 0x8a,
  shl: 0x8b,
  shr_s: 0x8c,
  shr_u: 0x8d,
  add: 0x8e,
  add_sat_s: 0x8f,
  add_sat_u: 0x90,
  sub: 0x91,
  sub_sat_s: 0x92,
  sub_sat_u: 0x93,
  mul: 0x95,
  min_s: 0x96,
  min_u: 0x97,
  max_s: 0x98,
  max_u: 0x99,
  avgr_u: 0x9b,
} as const satisfies IntLanes & Record<string, number>;

export const I32X4 = {
  splat: 0x11,
  extract: 0x1b,
  replace: 0x1c,
  eq: 0x37,
  ne: 0x38,
  lt_s: 0x39,
  gt_s: 0x3b,
  ge_u: 0x40,
  extadd_pairwise_s: 0x7e,
  extadd_pairwise_u: 0x7f,
  abs: 0xa0,
  neg: 0xa1,
  all_true: 0xa3,
  bitmask: 0xa4,
  extend_low_s: 0xa7,
  extend_high_s: 0xa8,
  extend_low_u: 0xa9,
  extend_high_u: 0xaa,
  shl: 0xab,
  shr_s: 0xac,
  shr_u: 0xad,
  add: 0xae,
  sub: 0xb1,
  mul: 0xb5,
  min_s: 0xb6,
  min_u: 0xb7,
  max_s: 0xb8,
  max_u: 0xb9,
  dot_i16x8_s: 0xba,
  extmul_low_s: 0xbc,
  extmul_high_s: 0xbd,
  extmul_low_u: 0xbe,
  extmul_high_u: 0xbf,
  trunc_sat_f32x4_s: 0xf8,
  trunc_sat_f64x2_s_zero: 0xfc,
} as const satisfies IntLanes & Record<string, number>;

export const I64X2 = {
  splat: 0x12,
  extract: 0x1d,
  replace: 0x1e,
  abs: 0xc0,
  neg: 0xc1,
  all_true: 0xc3,
  bitmask: 0xc4,
  extend_low_s: 0xc7,
  extend_high_s: 0xc8,
  extend_low_u: 0xc9,
  extend_high_u: 0xca,
  shl: 0xcb,
  shr_s: 0xcc,
  shr_u: 0xcd,
  add: 0xce,
  sub: 0xd1,
  mul: 0xd5,
  eq: 0xd6,
  ne: 0xd7,
  lt_s: 0xd8,
  gt_s: 0xd9,
  extmul_low_s: 0xdc,
  extmul_high_s: 0xdd,
  extmul_low_u: 0xde,
  extmul_high_u: 0xdf,
} as const satisfies IntLanes & Record<string, number>;

/** Floating-point lanes of one width. */
export interface FloatLanes {
  readonly splat: number;
  readonly extract: number;
  readonly replace: number;
  readonly eq: number;
  readonly ne: number;
  readonly lt: number;
  readonly gt: number;
  readonly le: number;
  readonly ge: number;
  readonly ceil: number;
  readonly floor: number;
  readonly trunc: number;
  readonly nearest: number;
  readonly abs: number;
  readonly neg: number;
  readonly sqrt: number;
  readonly add: number;
  readonly sub: number;
  readonly mul: number;
  readonly div: number;
  /** pmin(x, y) = y < x ? y : x */
  readonly pmin: number;
  /** pmax(x, y) = x < y ? y : x */
  readonly pmax: number;
}

export const F32X4 = {
  splat: 0x13,
  extract: 0x1f,
  replace: 0x20,
  eq: 0x41,
  ne: 0x42,
  lt: 0x43,
  gt: 0x44,
  le: 0x45,
  ge: 0x46,
  demote_f64x2_zero: 0x5e,
  ceil: 0x67,
  floor: 0x68,
  trunc: 0x69,
  nearest: 0x6a,
  abs: 0xe0,
  neg: 0xe1,
  sqrt: 0xe3,
  add: 0xe4,
  sub: 0xe5,
  mul: 0xe6,
  div: 0xe7,
  pmin: 0xea,
  pmax: 0xeb,
  convert_i32x4_s: 0xfa,
} as const satisfies FloatLanes & Record<string, number>;

export const F64X2 = {
  splat: 0x14,
  extract: 0x21,
  replace: 0x22,
  eq: 0x47,
  ne: 0x48,
  lt: 0x49,
  gt: 0x4a,
  le: 0x4b,
  ge: 0x4c,
  promote_low_f32x4: 0x5f,
  ceil: 0x74,
  floor: 0x75,
  trunc: 0x7a,
  nearest: 0x94,
  abs: 0xec,
  neg: 0xed,
  sqrt: 0xef,
  add: 0xf0,
  sub: 0xf1,
  mul: 0xf2,
  div: 0xf3,
  pmin: 0xf6,
  pmax: 0xf7,
  convert_low_i32x4_s: 0xfe,
  relaxed_madd: 0x107,
  relaxed_nmadd: 0x108,
} as const satisfies FloatLanes & Record<string, number>;
