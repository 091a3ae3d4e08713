"""Why a model says what it says: where it is sure, where it is not, and what its decision hangs on."""
