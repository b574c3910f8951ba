// Is an address one of those that are trusted?

/** A set of addresses and subnets, as `10.0.0.0/8` or `::1`. */
export class SubnetSet {
  readonly #subnets: { readonly bytes: Uint8Array; readonly bits: number }[];

  /** @throws {RangeError} If one of them is no address. */
  constructor(subnets: readonly string[]) {
    this.#subnets = subnets.map((subnet) => {
      const [address, prefix, ...more] = subnet.split("/");
      const bytes = bytesOf(address!);
      const bits = prefix === undefined ? 128 : Number(prefix) + (address!.includes(":") ? 0 : 96);
      const whole = prefix === undefined || /^\d{1,3}$/.test(prefix);
      if (bytes === null || !whole || bits > 128 || more.length > 0) {
        throw new RangeError(`proxyFrom must hold addresses or subnets, and holds ${JSON.stringify(subnet)}`);
      }
      return { bytes, bits };
    });
  }

  /** Whether the address lies in one of the subnets. IPv4 in IPv6 (`::ffff:10.0.0.1`) is IPv4. */
  has(address: string): boolean {
    const bytes = bytesOf(address);
    return bytes !== null && this.#subnets.some((subnet) => sharesFront(bytes, subnet.bytes, subnet.bits));
  }
}

function sharesFront(a: Uint8Array, b: Uint8Array, bits: number): boolean {
  for (let bit = 0; bit < bits; bit += 8) {
    const mask = bits - bit >= 8 ? 0xff : 0xff << (8 - (bits - bit)) & 0xff;
    if ((a[bit / 8]! & mask) !== (b[bit / 8]! & mask)) return false;
  }
  return true;
}

/** The 16 bytes of an address, an IPv4 one mapped into IPv6; null where it is none. */
export function bytesOf(address: string): Uint8Array | null {
  const bytes = new Uint8Array(16);
  const ipv4 = /^(.*:)?(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})$/.exec(address);
  if (ipv4) {
    const parts = ipv4.slice(2).map(Number);
    if (parts.some((part) => part > 255)) return null;
    if (ipv4[1] === undefined) {
      bytes.set([0xff, 0xff, ...parts], 10);
      return bytes;
    }
    address = `${ipv4[1]}${(parts[0]! << 8 | parts[1]!).toString(16)}:${
      (parts[2]! << 8 | parts[3]!).toString(16)
    }`;
  }
  const halves = address.split("::");
  const groups = halves.map((half) => half === "" ? [] : half.split(":"));
  const written = groups.flat();
  const whole = halves.length === 1 ? written.length === 8 : halves.length === 2 && written.length < 8;
  if (!whole || written.some((group) => !/^[0-9a-fA-F]{1,4}$/.test(group))) return null;
  const all = halves.length === 1
    ? written
    : [...groups[0]!, ...Array(8 - written.length).fill("0"), ...groups[1]!];
  all.forEach((group, i) => bytes.set([parseInt(group, 16) >> 8, parseInt(group, 16) & 255], 2 * i));
  return bytes;
}
