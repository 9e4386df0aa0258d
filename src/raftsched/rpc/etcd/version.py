"""The etcd that this store behaves as (etcd-api, summary): digits and dots only, clients take the parts for integers."""

from typing import Final

SERVER_VERSION: Final = "3.7.1"
STORAGE_VERSION: Final = "3.7.0"
