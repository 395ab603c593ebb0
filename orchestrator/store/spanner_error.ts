/** What failed in Spanner, as far as {@link spannerFault} can tell. */
export type SpannerFault = "no session" | "no credentials" | "concurrent schema change" | "no such table";

const TEXTS: readonly (readonly [RegExp, SpannerFault])[] = [
  [/Session not found/, "no session"],
  [/credentials/i, "no credentials"],
  [/concurrent schema change/i, "concurrent schema change"],
  [/table not found/i, "no such table"],
];

/**
 * What an error of the Spanner library means beyond its gRPC status, which is the same for many. There is nothing else to
 * tell it by than the text: this is the only place that reads it.
 */
export function spannerFault(thrown: unknown): SpannerFault | undefined {
  const text = String(thrown);
  return TEXTS.find(([pattern]) => pattern.test(text))?.[1];
}
