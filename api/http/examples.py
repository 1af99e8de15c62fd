"""Examples of every body by its model's name, and of problem details by status."""

from typing import Any

from ranksieve.api.http.schemas.common import MAX_BODY_BYTES

_SPEC: dict[str, Any] = {
    "name": "sentiment",
    "labels": {"team": "reviews"},
    "model": {"hub": "HuggingFaceTB/SmolLM2-135M-Instruct"},
    "task": {
        "kind": "choice",
        "prompt": "Review: {{ text }}\nSentiment:",
        "answer": "{{ label }}",
        "choices": ["negative", "positive"],
        "data": {"source": {"path": "reviews.jsonl"}},
    },
    "objective": {"kind": "max_drop", "points": 2},
}
_SUMMARY: dict[str, Any] = {
    "id": "0650f3a1c2b7e49d3f20a18c",
    "parent": None,
    "owner": "alice",
    "name": "sentiment",
    "labels": {"team": "reviews"},
    "priority": 0,
    "state": "searching",
    "cancel_requested": False,
    "pause_requested": False,
    "stop_requested": False,
    "created_at": "2026-11-02T09:30:00Z",
    "started_at": "2026-11-02T09:30:01Z",
    "finished_at": None,
    "error": None,
}
_NEEDS: dict[str, Any] = {
    "tokens": 2_000_000,
    "flops": 3_200_000_000_000,
    "host_bytes": 2_500_000_000,
    "accelerator_bytes": 0,
    "disk_bytes": 700_000_000,
    "seconds_low": 45.0,
    "seconds_high": 200.0,
}
_GENERATION: dict[str, Any] = {
    "generation": 3,
    "target_share": 0.4,
    "kept_share": 0.41,
    "kl_nats": 0.05,
    "loss_nats": 0.04,
    "drop_points": 0.8,
    "metric": 0.78,
    "evaluations": 12,
    "tokens": 3456,
    "accepted": True,
    "loss_min": 0.04,
    "loss_avg": 0.05,
    "loss_max": 0.07,
    "loss_std": 0.01,
}
_PROGRESS = {"phase": "search", "done": 120, "total": 400, "left_s": 260.5}
_KEY: dict[str, Any] = {
    "id": "5f0c2a9b7d31",
    "owner": "alice",
    "scope": "submit",
    "created_at": "2026-11-02T09:30:00Z",
    "expires_at": None,
}
_WEBHOOK: dict[str, Any] = {
    "id": "0650f3c09a1be27d4f6e83a5",
    "owner": "alice",
    "url": "https://hooks.example.com/ranksieve",
    "states": ["succeeded", "failed", "crashed", "cancelled"],
    "enabled": True,
    "disabled_reason": None,
    "created_at": "2026-11-02T09:30:00Z",
    "delivered_at": "2026-11-02T09:58:31Z",
}
_DELIVERY: dict[str, Any] = {
    "id": "0650f41d7e03c8b25a91f6d4",
    "type": "job.succeeded",
    "job_id": _SUMMARY["id"],
    "state": "pending",
    "attempts": 2,
    "created_at": "2026-11-02T09:58:30Z",
    "due_at": "2026-11-02T09:58:55Z",
    "finished_at": None,
    "status": 503,
    "error": "answered 503",
}

_EXPORT: dict[str, Any] = {
    **_SUMMARY,
    "id": "0650f3b7d1c2a94e8f10b26d",
    "parent": _SUMMARY["id"],
    "state": "queued",
    "asked": {"share": 0.35},
    "candidate": 17,
    "kept_share": 0.348,
    "result": None,
}

EXAMPLES: dict[str, dict[str, Any]] = {
    "JobSpec": _SPEC,
    "JobChanges": {"labels": {"team": "films"}, "priority": 10, "actors": 4},
    "JobBody": {**_SUMMARY, "spec": _SPEC, "result": None},
    "JobList": {
        "jobs": [{**_SUMMARY, "progress": _PROGRESS, "outcome": None}],
        "next": "0650f3a1c2b7e49d3f20a18c",
    },
    "EstimateBody": {
        "model": {
            "matrices": 210,
            "block_params": 106_168_320,
            "total_params": 134_515_008,
            "dtype": "bfloat16",
        },
        "machine": {
            "name": "this machine's processor, 2 threads",
            "device": "cpu",
            "measured": True,
            "flops_per_second": 2.5e11,
            "memory_bytes": 16_000_000_000,
        },
        "gram_passes": 3,
        "evaluations_at_most": 400,
        "phases": [{"phase": "prepare", **_NEEDS}],
        "total": _NEEDS,
        "notes": ["times are for a machine that does nothing else"],
    },
    "EventPage": {
        "events": [
            {
                "seq": 17,
                "type": "generation.completed",
                "at": "2026-11-02T09:41:12Z",
                "data": _GENERATION,
            }
        ],
        "next": 17,
    },
    "GenerationPage": {"generations": [_GENERATION]},
    "CandidatePage": {
        "candidates": [
            {
                "id": 17,
                "generation": 3,
                "genome": [1, 2],
                "ranks": [16, -1],
                "kept_share": 0.41,
                "kl_nats": 0.05,
                "loss_nats": 0.04,
                "drop_points": 0.8,
                "drop_bound": 1.6,
                "metric": 0.78,
                "tokens": 7936,
                "seconds": 3.2,
                "failure": None,
            }
        ]
    },
    "RanksBody": {
        "layers": [0, 1],
        "matrices": ["self_attn.q_proj", "mlp.down_proj"],
        "ranks": [[96, 208], [-1, 0]],
        "densities": [[0.3333, 0.4965], [1.0, 0.0]],
        "dense_params": [[331_776, 884_736], [331_776, 884_736]],
    },
    "ExportRequest": {"share": 0.35},
    "ExportBody": _EXPORT,
    "ExportList": {"exports": [_EXPORT]},
    "ArtifactList": {"artifacts": [{"name": "model/config.json", "bytes": 812}]},
    "NewWebhook": {"url": _WEBHOOK["url"], "states": ["succeeded", "failed"]},
    "WebhookChanges": {"enabled": True},
    "WebhookBody": _WEBHOOK,
    "SecretWebhookBody": {**_WEBHOOK, "secret": "whsec_" + 43 * "x" + "="},
    "WebhookList": {"webhooks": [_WEBHOOK]},
    "DeliveryBody": _DELIVERY,
    "DeliveryPage": {"deliveries": [_DELIVERY], "next": None},
    "JobMessage": {
        "type": "job.succeeded",
        "timestamp": "2026-11-02T09:58:30Z",
        "data": {
            "id": _SUMMARY["id"],
            "seq": 83,
            "owner": "alice",
            "parent": None,
            "name": "sentiment",
            "labels": {"team": "reviews"},
            "state": "succeeded",
            "created_at": "2026-11-02T09:30:00Z",
            "started_at": "2026-11-02T09:30:01Z",
            "finished_at": "2026-11-02T09:58:30Z",
            "error": None,
        },
    },
    "WebhookTest": {
        "type": "webhook.test",
        "timestamp": "2026-11-02T09:30:12Z",
        "data": {"webhook_id": _WEBHOOK["id"]},
    },
    "NewKey": {"owner": "alice", "scope": "submit", "days": 90},
    "Rotation": {"grace_hours": 24},
    "KeyBody": _KEY,
    "SecretKeyBody": {**_KEY, "secret": "rsk_5f0c2a9b7d31_" + 43 * "x"},
    "KeyList": {"keys": [_KEY]},
    "Me": {"owner": "alice", "scope": "submit"},
    "CapabilitiesBody": {
        "versions": {"ranksieve": "0.1.0", "torch": "2.13.0", "ray": "2.60.0"},
        "devices": [{"kind": "cuda", "name": "NVIDIA H100", "memory_bytes": 85_000_000_000}],
        "limits": {
            "requests_per_second": 100,
            "queued_jobs": 1000,
            "running_jobs": 4,
            "webhooks": 20,
            "event_retention_days": 90.0,
            "cache_gib": 100.0,
            "body_bytes": 4_194_304,
        },
    },
    "LocalModelList": {
        "models": [
            {
                "model": {"path": "gguf/smollm2-135m-instruct-q4_k_m.gguf"},
                "location": "/srv/models/gguf/smollm2-135m-instruct-q4_k_m.gguf",
                "architecture": None,
                "weight_bytes": 105_454_432,
            },
            {
                "model": {"path": "my-finetuned-model"},
                "location": "/srv/models/my-finetuned-model",
                "architecture": "LlamaForCausalLM",
                "weight_bytes": 269_060_552,
            },
        ],
        "complete": True,
    },
    "Health": {"status": "ok", "version": "0.1.0"},
    "Readiness": {"ready": True, "store": True, "controller": True, "ray": True},
}

DETAILS: dict[int, str] = {
    400: "unknown name in the Host header (RANKSIEVE_ALLOWED_HOSTS adds names), or malformed Range header",
    401: "this server needs an API key as `Authorization: Bearer <key>`",
    403: "needs a key of scope submit; this one is alice's, of scope read",
    404: "there is no job '0650f3a1c2b7e49d3f20a18c'",
    409: "job 0650f3a1c2b7e49d3f20a18c is searching; cancel it before it is deleted",
    410: "events up to 57 are past retention; go on after=57",
    413: f"the body is larger than the {MAX_BODY_BYTES} bytes that this server takes; "
    "a job file names its data and holds none",
    416: "the requested Range is beyond the end of the file",
    422: "task.prompt: no field 'body'; the records have text, label",
    429: "more than 100 requests in a second; send fewer at once",
    503: "the job store cannot be reached; try again later",
}
