import type { ComputeService } from "./compute_service.ts";

/** The ComputeServices that an orchestrator has, by region. */
export class ComputeChoice {
  readonly #services: readonly [ComputeService, ...ComputeService[]];

  /** @param services Of different names. The first one is the default, and of several in a region the first counts. */
  constructor(services: readonly [ComputeService, ...ComputeService[]]) {
    if (new Set(services.map(({ name }) => name)).size < services.length) {
      throw new TypeError("two compute services have the same name");
    }
    this.#services = services;
  }

  /**
   * The service for a session that is wanted in a region.
   *
   * @param region Empty: any.
   * @returns `elsewhere`: for the person who waits, that it is another region; undefined: it is not
   */
  forRegion(region: string): { compute: ComputeService; elsewhere?: string } {
    const [standard] = this.#services;
    if (region === "") return { compute: standard };
    const compute = this.#services.find((service) => service.region === region);
    if (compute) return { compute };
    // A service that does not say where it is may be there.
    if (standard.region === "") return { compute: standard };
    return { compute: standard, elsewhere: `no agents run in ${region}, so this one runs in ${standard.region}` };
  }

  /** The service that a session's row names; the default when there is none of that name any more. */
  named(name: string): ComputeService {
    return this.#services.find((service) => service.name === name) ?? this.#services[0];
  }

  /** See {@link ComputeService.sweep}. Throws what the first of them throws that fails, when all have swept. */
  async sweep(): Promise<void> {
    const swept = await Promise.allSettled(this.#services.map((service) => service.sweep()));
    for (const one of swept) if (one.status === "rejected") throw one.reason;
  }
}
