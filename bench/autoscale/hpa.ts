/**
 * What a HorizontalPodAutoscaler (autoscaling/v2) decides, as Kubernetes documents it: a ratio with a tolerance, then the
 * stabilisation windows, then the policies, then the bounds. https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/
 */

export interface Policy {
  type: 'Percent' | 'Pods';
  value: number;
  periodSeconds: number;
}

export interface Rules {
  stabilizationWindowSeconds: number;
  policies: Policy[];
}

export interface Autoscaler {
  minReplicas: number;
  maxReplicas: number;
  /** Of what a pod has requested. */
  targetPercent: number;
  scaleUp: Rules;
  scaleDown: Rules;
}

/** Kubernetes' own: within a tenth of the target nothing changes. */
const TOLERANCE = 0.1;
export const SYNC_SECONDS = 15;

/** Keeps what earlier rounds recommended and changed. `decide` is called once every `SYNC_SECONDS`. */
export function createAutoscaler({ minReplicas, maxReplicas, targetPercent, scaleUp, scaleDown }: Autoscaler) {
  const recommended: { at: number; replicas: number }[] = [];
  const changes: { at: number; by: number }[] = [];

  /** How many of the changes up (1) or down (-1) within so many seconds. */
  function changed(now: number, seconds: number, sign: 1 | -1): number {
    return changes
      .filter(({ at, by }) => at > now - seconds && Math.sign(by) === sign)
      .reduce((sum, { by }) => sum + Math.abs(by), 0);
  }

  /** How far the policies let go, the one that allows the most. */
  function limit(now: number, current: number, { policies }: Rules, sign: 1 | -1): number {
    const limits = policies.map(({ type, value, periodSeconds }) => {
      // A policy counts from where its period began.
      const began = current - sign * changed(now, periodSeconds, sign);
      if (type === 'Pods') return began + sign * value;
      return sign > 0 ? Math.ceil(began * (1 + value / 100)) : Math.floor(began * (1 - value / 100));
    });
    return sign > 0 ? Math.max(...limits) : Math.min(...limits);
  }

  return {
    /** Replicas from now on. `percents` is the CPU of each pod that is ready, as a share of its request; `now` in seconds. */
    decide(now: number, current: number, percents: number[]): number {
      const mean = percents.reduce((sum, percent) => sum + percent, 0) / Math.max(1, percents.length);
      const ratio = mean / targetPercent;
      const wanted = Math.abs(ratio - 1) <= TOLERANCE ? current : Math.ceil(ratio * percents.length);
      const bounded = Math.min(maxReplicas, Math.max(minReplicas, wanted));
      recommended.push({ at: now, replicas: bounded });
      const within = (seconds: number) =>
        recommended.filter(({ at }) => at > now - Math.max(seconds, 1)).map(({ replicas }) => replicas);
      // The lowest that was recommended lately holds back a rise, the highest a fall.
      const up = Math.min(...within(scaleUp.stabilizationWindowSeconds));
      const down = Math.max(...within(scaleDown.stabilizationWindowSeconds));
      const stable = current < up ? up : current > down ? down : current;
      const next =
        stable > current
          ? Math.min(stable, limit(now, current, scaleUp, 1))
          : Math.max(stable, limit(now, current, scaleDown, -1));
      const replicas = stable === current ? current : next;
      if (replicas !== current) changes.push({ at: now, by: replicas - current });
      return replicas;
    },
  };
}
