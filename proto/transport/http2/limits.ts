/** What one HTTP/2 connection may cost a server, for strangers and for known callers; see ../admission.ts. */

/** Bounds of one connection. */
export interface Http2Limits {
  /** Concurrent streams. */
  streams: number;
  /** Streams over the connection's life. */
  requests: number;
  /** Bytes that a stream may receive before they are consumed: bounds what a slow reader holds. */
  streamWindow: number;
  /** The same for the whole connection, in bytes. */
  connectionWindow: number;
  /** Whether a stream may receive more than one window. Strangers may not. */
  credit: boolean;
  /** Maximum frame size, in bytes. */
  frameBytes: number;
  /** Maximum header list, in bytes: names, values and 32 for each header (RFC 9113, 10.5.1). */
  headerListBytes: number;
  /** Headers in one list. */
  headers: number;
  /** How long a stream may have only headers, in milliseconds. */
  quietMs: number;
  /** Budget of frames without content. */
  idleFrames: number;
  /** How many such frames per second refill the budget. */
  idleFramesPerSecond: number;
}

/** Limits for known peers. A window of 4 MB carries 200 MB/s at a round trip of 20 ms. */
export const KNOWN: Http2Limits = {
  streams: 256,
  requests: Infinity,
  streamWindow: 4 << 20,
  connectionWindow: 16 << 20,
  credit: true,
  frameBytes: 1 << 18,
  headerListBytes: 128 << 10,
  headers: 256,
  quietMs: 30_000,
  idleFrames: 10_000,
  idleFramesPerSecond: 1_000,
};

/**
 * Limits for strangers: enough for the call by which they identify themselves. Windows and frames are HTTP/2's minimum.
 */
export const STRANGER: Http2Limits = {
  streams: 16,
  requests: 100,
  streamWindow: 65_535,
  connectionWindow: 65_535,
  credit: false,
  frameBytes: 16_384,
  headerListBytes: 16 << 10,
  headers: 64,
  quietMs: 10_000,
  idleFrames: 300,
  idleFramesPerSecond: 20,
};
