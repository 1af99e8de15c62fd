"""Registration of exports with transformers, so that no code of a folder is trusted.

import ranksieve.hf
model = AutoModelForCausalLM.from_pretrained(folder)  # without trust_remote_code
"""

from ranksieve.workers.export.registration import register

register()
