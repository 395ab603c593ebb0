/** What one HTTP/2 connection may cost the server at its other end, by whether the caller is known; see ../admission.ts. */

/** Bounds of one connection. */
export interface Http2Limits {
  /** Streams at a time. */
  streams: number;
  /** Streams in all, over the connection's whole life. */
  requests: number;
  /** How much one stream may receive before it is acknowledged, in bytes: bounds what a slow reader makes us hold. */
  streamWindow: number;
  /** The same for the whole connection. */
  connectionWindow: number;
  /** Whether a stream may send more than one window: not before it is known who sends. */
  credit: boolean;
  /** The largest frame that is taken, in bytes. */
  frameBytes: number;
  /** The largest header list, in bytes: names, values and 32 for each header (RFC 9113, 10.5.1). */
  headerListBytes: number;
  /** Headers in one list. */
  headers: number;
  /** How long a stream may have headers only, in milliseconds. */
  quietMs: number;
  /** Frames that carry nothing which may come at once. */
  idleFrames: number;
  /** The same for each second, in the long run. */
  idleFramesPerSecond: number;
}

/** Of peers that are known. A window of 4 MB carries 200 MB/s at a round trip of 20 ms. */
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

/** Of peers that have proved nothing yet: enough for the call by which they do. The windows and frames are HTTP/2's least. */
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
