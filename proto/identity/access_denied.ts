/** A caller may not do what it asks for. What carries calls turns it into an answer of its own: a gRPC code, an HTTP status. */
export class AccessDenied extends Error {
  override readonly name = "AccessDenied";

  /**
   * @param kind Whether the caller is nobody known, or somebody known who may not do this.
   * @param sentence For the caller.
   */
  constructor(readonly kind: "unauthenticated" | "forbidden", readonly sentence: string) {
    super(sentence);
  }
}
