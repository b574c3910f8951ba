/**
 * The test kit: parts for the tests of whoever speaks a length-prefixed protocol over TCP.
 *
 * @module
 */

export { between, newSeed, oneOf, type Random, randomFrom } from "./random.ts";
export * from "./proxy.ts";
export { ProxyApi, ProxyApiError, type ProxyApiOptions, serveProxies } from "./proxy/api.ts";
